"""Upper-level losses of a reconstruction x against a target, one value per image, with r = x - target:

    squared       1/2 sum_i r_i^2
    huber         sum_i H(r_i),    H(r) = r^2 / 2 for |r| <= width, width (|r| - width / 2) beyond
    charbonnier   sum_i width ((r_i^2 + width^2)^(1/2) - width)

All are convex, times a weight, and the weight is the Lipschitz constant of their gradients. Where |r| is much below the
width, they agree. The bounds on losses of inexact reconstructions (app/upper/trial.py) ask for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class SquaredError:
    """weight / 2 ||x - target||^2."""

    target: Tensor  # (B, C, H, W)
    weight: float = 1.0

    @property
    def smoothness(self) -> float:  # the Lipschitz constant of the gradient
        return self.weight

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        return 0.5 * self.weight * (x - self.target).square().sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self.weight * (x - self.target)

    def take(self, images: Tensor) -> Self:
        return replace(self, target=self.target[images])


@dataclass(frozen=True)
class HuberLoss(SquaredError):
    """weight sum_i H(x_i - target_i): large errors, such as those at outliers, count linearly."""

    width: float = 0.1

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        r = x - self.target
        clipped = r.clamp(-self.width, self.width)
        return self.weight * (clipped * (r - clipped / 2)).sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self.weight * (x - self.target).clamp(-self.width, self.width)


@dataclass(frozen=True)
class CharbonnierLoss(SquaredError):
    """weight sum_i width ((r_i^2 + width^2)^(1/2) - width), r = x - target: smooth everywhere."""

    width: float = 0.1

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        squared = (x - self.target).square()
        # The plain difference of the root and the width cancels for small r.
        return self.weight * self.width * (squared / ((squared + self.width**2).sqrt() + self.width)).sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        r = x - self.target
        return self.weight * self.width * r / (r.square() + self.width**2).sqrt()


LossOf = Callable[..., SquaredError]  # (target (B, C, H, W), weight) -> the loss
LOSSES: dict[str, LossOf] = {"squared": SquaredError, "huber": HuberLoss, "charbonnier": CharbonnierLoss}
