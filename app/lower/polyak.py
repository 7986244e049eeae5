"""When to take a long step, and how long: gradient descent with one Polyak step per epoch, f* unknown.

    K times  x <- x - eta g,   then once  x <- x - (f(x) - f*) / ||g||^2 g

(Davis, Drusvyatskiy, Jiang: arXiv 2409.19791). The short steps fall into the ravine of slow growth, the long one moves
along it; K grows with the logarithm of the accuracy that is wanted. f* is replaced by a level f~ (Hazan, Kakade: arXiv
1905.00313, Algorithm 2), first a lower bound of f: where the step with f - f~ fails, f~ <- (f~ + f) / 2. Theirs only
rises, and takes half of each step to make up for f~ < f*. Here x and gap = f(x) - f~ are protected instead:

- A step that raises f is taken back, so x is always the best point so far. If it was long, gap is halved; likewise
  after a long step that gained little, for it jumped across the minimum.
- An f~ that rose above f* recovers: gap is at least what f fell in the epoch that ends, and doubles after a long step
  that gained much. (With the exact f* and f growing like a power p, a long step gains 1 - (1 - 1/p)^p of the gap, 0.63
  to 0.75.)

Every function acts on each entry of (B,) alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.lower.solution import PerImage

LITTLE, MUCH = 0.1, 0.76  # of the gap


@dataclass(frozen=True)
class Epoch(PerImage):
    """How far the current epoch of steps has come, for each image."""

    gap: Tensor  # (B,) f(x) - f~
    fallen: Tensor  # (B,) by how much f fell since the last long step
    count: Tensor  # (B,) short steps since the last long step


def begin(gap: Tensor) -> Epoch:  # (B,)
    """Begin the first epoch at f(x) minus a lower bound of f."""
    return Epoch(gap, torch.zeros_like(gap), torch.zeros_like(gap))


def is_long(epoch: Epoch, short_steps: int) -> Tensor:  # -> (B,) bool
    """Tell whether the next step is long."""
    return epoch.count >= short_steps


def long_step(epoch: Epoch, squared: Tensor) -> Tensor:  # (B,) -> (B,)
    """Return (f - f~) / ||g||^2 for squared = ||g||^2, and 0 where g = 0."""
    gap = torch.maximum(epoch.gap, epoch.fallen)
    return torch.where(squared > 0, gap / squared, 0)


def limit(epoch: Epoch, gap: Tensor) -> Epoch:  # (B,)
    """Return the epoch with no larger gap than this one."""
    return Epoch(epoch.gap.minimum(gap), epoch.fallen.minimum(gap), epoch.count)


def settle(epoch: Epoch, long: Tensor, change: Tensor, accepted: Tensor) -> Epoch:  # (B,) each
    """Return the epoch after a step that changed f by `change`, and was accepted or taken back."""
    gap = torch.where(long, torch.maximum(epoch.gap, epoch.fallen), epoch.gap)
    gain = torch.where(accepted, -change, 0)
    little, much = gain < LITTLE * gap, gain > MUCH * gap
    left = torch.where(long & little, (gap - gain) / 2, torch.where(long & much, 2 * gain, gap - gain)).clamp(min=0)
    fallen = torch.where(long, 0, epoch.fallen + gain)
    return Epoch(left, fallen, torch.where(long, 0, epoch.count + accepted))
