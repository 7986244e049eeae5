"""Upper-level losses of a reconstruction x against a target, one value per image, with r = x - target:

    squared       1/2 sum_i r_i^2
    huber         sum_i H(r_i),    H(r) = r^2 / 2 for |r| <= width, width (|r| - width / 2) beyond
    charbonnier   sum_i width ((r_i^2 + width^2)^(1/2) - width)

All are convex, times a weight, and the weight is the Lipschitz constant of their gradients. Where |r| is much below the
width, they agree. The bounds on losses of inexact reconstructions (app/upper/trial.py) ask for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class SquaredError:
    """weight / 2 ||x - target||^2."""

    target: Tensor  # (B, C, H, W)
    weight: float = 1.0
    seen: Tensor | float = field(default=1.0, kw_only=True)  # (H, W): 1 where the loss looks, 0 elsewhere

    @property
    def smoothness(self) -> float:  # the Lipschitz constant of the gradient
        return self.weight

    def residual(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return (x - self.target) * self.seen

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        return 0.5 * self.weight * self.residual(x).square().sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self.weight * self.residual(x)

    def take(self, images: Tensor) -> Self:
        return replace(self, target=self.target[images])


@dataclass(frozen=True)
class HuberLoss(SquaredError):
    """weight sum_i H(x_i - target_i): large errors, such as those at outliers, count linearly."""

    width: float = 0.1

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        r = self.residual(x)
        clipped = r.clamp(-self.width, self.width)
        return self.weight * (clipped * (r - clipped / 2)).sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self.weight * self.residual(x).clamp(-self.width, self.width)


@dataclass(frozen=True)
class CharbonnierLoss(SquaredError):
    """weight sum_i width ((r_i^2 + width^2)^(1/2) - width), r = x - target: smooth everywhere."""

    width: float = 0.1

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        squared = self.residual(x).square()
        # The plain difference of the root and the width cancels for small r.
        return self.weight * self.width * (squared / ((squared + self.width**2).sqrt() + self.width)).sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        r = self.residual(x)
        return self.weight * self.width * r / (r.square() + self.width**2).sqrt()


LossOf = Callable[..., SquaredError]  # (target (B, C, H, W), weight) -> the loss
LOSSES: dict[str, LossOf] = {"squared": SquaredError, "huber": HuberLoss, "charbonnier": CharbonnierLoss}
