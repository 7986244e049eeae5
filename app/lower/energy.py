"""The lower-level energy h(x) = 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2 and its proven curvature bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from torch import Tensor


class Operator(Protocol):
    """A linear A on a batch of images, with lambda_min <= A^T A <= norm_squared (proven, not estimated)."""

    @property
    def norm_squared(self) -> float: ...

    @property
    def lambda_min(self) -> float: ...

    def forward(self, x: Tensor) -> Tensor: ...

    def adjoint(self, y: Tensor) -> Tensor: ...

    def normal(self, x: Tensor) -> Tensor:
        """A^T A x."""
        ...

    def take(self, images: Tensor) -> Operator:
        """The operator of these images of the batch."""
        ...


class Functional(Protocol):
    """What a solver needs of R: one value per image, and curvature() = (rho, L) with -rho <= d2R/dx2 <= L."""

    def value(self, x: Tensor) -> Tensor: ...

    def gradient(self, x: Tensor) -> Tensor: ...

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]: ...

    def curvature(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Energy:
    """h for a batch of measurements y; one value per image, and no image depends on its batch."""

    operator: Operator
    functional: Functional
    y: Tensor
    ridge: float = 0.0

    @cached_property
    def backprojection(self) -> Tensor:
        """A^T y (B, C, H, W): constant in the gradient, and the default starting point."""
        return self.operator.adjoint(self.y)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """(mu, L): mu <= d2h/dx2 <= L for every x."""
        rho, largest = self.functional.curvature()
        mu = self.operator.lambda_min + self.ridge - rho
        return mu, self.operator.norm_squared + self.ridge + largest

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        misfit = (self.operator.forward(x) - self.y).square().flatten(1).sum(1)
        return 0.5 * misfit + self.functional.value(x) + 0.5 * self.ridge * x.square().sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        g = self.operator.normal(x) - self.backprojection
        g += self.functional.gradient(x)
        return g.add_(x, alpha=self.ridge) if self.ridge else g

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """v -> A^T A v + d2R/dx2(x) v + ridge v."""
        curvature = self.functional.hessian(x)
        return lambda v: self.operator.normal(v) + curvature(v) + self.ridge * v

    def take(self, images: Tensor) -> Energy:
        """The energy of these images of the batch alone."""
        part = replace(self, operator=self.operator.take(images), y=self.y[images])
        part.__dict__.update(backprojection=self.backprojection[images], bounds=self.bounds)
        return part
