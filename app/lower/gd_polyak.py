"""Gradient descent with Polyak steps (polyak.py, arXiv 2409.19791) for strongly convex energies, per image.

    SHORT steps  x <- x - g / L,   then one  x <- x - (h(x) - h~) / ||g||^2 g,   to a certified accuracy.

No value of h is evaluated: near the minimiser their differences are rounding (in float32, where h - h* < 1e-7 h). The
changes of h are read off the gradients at both ends,  h(x - t g) - h(x) = -t/2 <g + g', g>  up to third derivatives,
and keep their digits as long as the gradients do. Strong convexity bounds the gap, h(x) - h* <= ||g||^2 / (2 mu), and
with it the long step, by 1 / (2 mu). ||g|| / mu certifies x however it was found.

L is local (local_curvature.py). While the gradient has not halved for long, only steps with <g', g> >= 0 are taken,
which by convexity never climb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.lower import local_curvature, polyak
from app.lower.energy import Energy
from app.lower.iterate import MAX_ITERATIONS, Scheme, iterate
from app.lower.polyak import Epoch
from app.lower.solution import LowerSolution, PerImage, dot, per_image

SHORT = 4  # K: of 2, 4, 8, ... the fewest gradients for tv, and nearly for foe
STRICT = 50  # gradients without halving after which no step may climb
PATIENCE = 3  # gives up after this many L / mu gradients, and STRICT more, without halving the smallest one


@dataclass(frozen=True, kw_only=True)
class _State(PerImage):
    x: Tensor
    g: Tensor  # grad h(x)
    squared: Tensor  # ||g||^2
    epoch: Epoch
    local: Tensor
    long: Tensor  # bool: whether the next step is long
    t: Tensor  # its length, in units of g

    @property
    def point(self) -> Tensor:
        return self.x - per_image(self.t) * self.g


def solve(
    energy: Energy, start: Tensor, accuracy: float, max_iterations: int = MAX_ITERATIONS
) -> LowerSolution:  # (B, C, H, W) -> x (B, C, H, W)
    """Return argmin h for each image to a certified accuracy. Raises what `iterate` raises."""
    return iterate(SCHEME, energy, start, accuracy, max_iterations)


def _begin(energy: Energy, x: Tensor, g: Tensor) -> _State:
    mu, _ = energy.bounds
    return _aim(energy, x, g, polyak.begin(dot(g, g) / (2 * mu)), local_curvature.begin(energy, x))


def _step(energy: Energy, state: _State, x: Tensor, g: Tensor, stalled: Tensor) -> tuple[_State, Tensor, Tensor]:
    t, squared = state.t, state.squared
    slope = dot(g, state.g)
    accepted = slope >= torch.where(stalled > STRICT, 0, -squared)
    epoch = polyak.settle(state.epoch, state.long, -t / 2 * (squared + slope), accepted)
    change, along = g - state.g, t * (squared - slope)  # along = <dx, dg>
    local = local_curvature.update(energy, state.local, along, dot(change, change))
    x = torch.where(per_image(accepted), x, state.x)
    g = torch.where(per_image(accepted), g, state.g)
    return _aim(energy, x, g, epoch, local), along, t.square() * squared


def _aim(energy: Energy, x: Tensor, g: Tensor, epoch: Epoch, local: Tensor) -> _State:
    """Decide on the next step."""
    mu, _ = energy.bounds
    squared, long, short = dot(g, g), polyak.is_long(epoch, SHORT), 1 / local
    t = torch.where(long, polyak.long_step(epoch, squared).clamp(max=1 / (2 * mu)).maximum(short), short)
    return _State(x=x, g=g, squared=squared, epoch=epoch, local=local, long=long, t=t)


def _patience(energy: Energy, state: _State) -> Tensor:
    return STRICT + PATIENCE * state.local / energy.bounds[0]


SCHEME = Scheme(begin=_begin, step=_step, patience=_patience)
