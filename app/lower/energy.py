"""The lower-level energy h(x) = 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2 and its proven curvature bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from typing import Protocol

from torch import Tensor

from app.lower.solution import LowerSolution, NonFiniteError


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

    @property
    def normal_model(self) -> tuple[Tensor | float, Tensor | float]:
        """What preconditioners know of A^T A: the symbol >= 0 of a circulant that resembles it, on the frequencies of
        rfft2 (broadcast to (B, 1, 1, H, W // 2 + 1)), and its diagonal (broadcast to (B, C, H, W))."""
        ...

    def take(self, images: Tensor) -> Operator:
        """The operator of these images of the batch."""
        ...


class Functional(Protocol):
    """What a solver needs of R: one value per image, and curvature() = (rho, L) with -rho <= d2R/dx2 <= L.

    curvature_model(x) is what preconditioners know of d2R/dx2: a stencil (B, C, C, 2 r + 1, 2 r + 1) and the diagonal
    (B, C, H, W), both >= 0.
    """

    def value(self, x: Tensor) -> Tensor: ...

    def gradient(self, x: Tensor) -> Tensor: ...

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]: ...

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def curvature(self) -> tuple[float, float]: ...

    def take(self, images: Tensor) -> Functional:
        """R of these images of the batch, where it is not the same for all."""
        ...


@dataclass(frozen=True)
class Energy:
    """h for a batch of measurements y; one value per image, and no image depends on its batch.

    guess: near the minimiser, where something is known of it.
    assumed: stands for mu in `bounds` where h is not provably strongly convex. A solver then knows that h may be
    non-convex; what it returns certifies nothing (`stationary.py`).
    """

    operator: Operator
    functional: Functional
    y: Tensor
    ridge: float = 0.0
    assumed: float | None = None
    guess: Tensor | None = None

    @cached_property
    def backprojection(self) -> Tensor:
        """A^T y (B, C, H, W), constant in the gradient."""
        return self.operator.adjoint(self.y)

    @property
    def start(self) -> Tensor:
        """Where a solver starts that knows nothing else."""
        return self.backprojection if self.guess is None else self.guess

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """(mu, L): mu <= d2h/dx2 <= L for every x. Raises NonFiniteError where R has no such numbers."""
        rho, largest = self.functional.curvature()
        if not (isfinite(rho) and isfinite(largest)):
            raise NonFiniteError("the curvature of the energy is not finite")
        mu = self.operator.lambda_min + self.ridge - rho if self.assumed is None else self.assumed
        return mu, self.operator.norm_squared + self.ridge + largest

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        misfit = (self.operator.forward(x) - self.y).square().flatten(1).sum(1)
        return 0.5 * misfit + self.functional.value(x) + 0.5 * self.ridge * x.square().sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        g = self.operator.normal(x) - self.backprojection
        g += self.functional.gradient(x)
        return g.add_(x, alpha=self.ridge) if self.ridge else g

    def hessian(self, x: Tensor) -> Hessian:
        """v -> A^T A v + d2R/dx2(x) v + ridge v."""
        return Hessian(self, x, self.functional.hessian(x))

    def take(self, images: Tensor) -> Energy:
        """The energy of these images of the batch alone."""
        part = replace(
            self,
            operator=self.operator.take(images),
            functional=self.functional.take(images),
            y=self.y[images],
            guess=None if self.guess is None else self.guess[images],
        )
        part.__dict__.update(backprojection=self.backprojection[images], bounds=self.bounds)
        return part


@dataclass(frozen=True)
class Hessian:
    """d2h/dx2 at x; what depends on x alone was computed once."""

    energy: Energy
    x: Tensor
    curvature: Callable[[Tensor], Tensor]

    def __call__(self, v: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        h = self.curvature(v).add_(self.energy.operator.normal(v))
        return h.add_(v, alpha=self.energy.ridge) if self.energy.ridge else h

    def take(self, images: Tensor) -> Hessian:
        if len(images) == len(self.x):
            return self
        return self.energy.take(images).hessian(self.x[images])


Solver = Callable[[Energy, Tensor, float], LowerSolution]  # (energy, start, accuracy)
