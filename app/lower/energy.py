"""The lower-level energy and its curvature bounds:

    h(x) = 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2,    mu <= d2h/dx2 <= L.

Images x are (B, C, H, W). Measurements y have any shape (B, ...), real or complex: <u, v> is then the real part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor

from app.lower.solution import CurvatureError, LowerSolution, NonFiniteError
from regularizers.functional import Functional

DOUBT = 2.0**-40  # of L, by which rounding may change mu
ROUNDINGS = 64  # units of eps L by which rounding may change <v, H v> / <v, v>


class Operator(Protocol):
    """A linear A on a batch of images, with lambda_min <= A^T A <= norm_squared (bounds, not estimates)."""

    @property
    def norm_squared(self) -> float: ...

    @property
    def lambda_min(self) -> float: ...

    @property
    def norm_proven(self) -> bool:
        """Whether norm_squared is proven. If it is not, a larger curvature that is seen contradicts nothing."""
        ...

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, ...)
        ...

    def adjoint(self, y: Tensor) -> Tensor:  # (B, ...) -> (B, C, H, W), real
        ...

    def normal(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Return A^T A x."""
        ...

    @property
    def normal_model(self) -> tuple[Tensor | float, Tensor | float] | None:
        """What preconditioners know of A^T A: the symbol >= 0 of a circulant that resembles it, on the frequencies of
        rfft2 (broadcast to (B, 1, 1, H, W // 2 + 1), or complex and hermitian (B, C, C, H, W // 2 + 1) where A mixes
        channels), and its diagonal (broadcast to (B, C, H, W)). None if nothing."""
        ...

    def misfit_gradient(self, y: Tensor) -> Callable[[Tensor], Tensor]:  # (B, ...)
        """Return x -> A^T (A x - y); what depends on y alone is computed once."""
        ...

    def take(self, images: Tensor) -> Operator:
        """Return the operator of these images of the batch."""
        ...

    def promoted(self) -> Operator:
        """Return A in float64, its numbers as they are."""
        ...


def bounds(operator: Operator, functional: Functional, ridge: float) -> tuple[float, float]:
    """Return (mu, L) with mu <= d2h/dx2 <= L for every x, which need no measurement. A mu that float64 cannot tell from
    0 is at most 0. Raises NonFiniteError where R has no such numbers."""
    rho, largest = functional.curvature()
    if not (isfinite(rho) and isfinite(largest)):
        raise NonFiniteError("the curvature of the energy is not finite")
    mu, largest = operator.lambda_min + ridge - rho, operator.norm_squared + ridge + largest
    return mu if mu > DOUBT * largest else min(mu, 0.0), largest


@dataclass(frozen=True)
class Energy:
    """The energy of a batch of measurements y; one value per image, and no image depends on its batch.

    guess: near the minimiser, where something is known of it.
    assumed: stands for mu in `bounds` where h is not provably strongly convex. A solver then knows that h may be
    non-convex; what it returns certifies nothing (`stationary.py`).
    """

    operator: Operator
    functional: Functional
    y: Tensor
    ridge: float = 0.0
    assumed: float | None = field(default=None, kw_only=True)
    guess: Tensor | None = field(default=None, kw_only=True)

    @cached_property
    def backprojection(self) -> Tensor:
        """A^T y (B, C, H, W), which is constant in the gradient."""
        return self.operator.adjoint(self.y)

    @property
    def start(self) -> Tensor:
        """The point (B, C, H, W) where a solver starts that knows nothing else."""
        return self.backprojection if self.guess is None else self.guess

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """(mu, L) with mu <= d2h/dx2 <= L for every x. Raises what `bounds` raises."""
        mu, largest = bounds(self.operator, self.functional, self.ridge)
        return mu if self.assumed is None else self.assumed, largest

    @cached_property
    def misfit_gradient(self) -> Callable[[Tensor], Tensor]:
        """The map x -> A^T (A x - y) of images (B, C, H, W)."""
        return self.operator.misfit_gradient(self.y)

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        r = self.operator.forward(x) - self.y
        parts = torch.view_as_real(r) if r.is_complex() else r  # abs() would lose the second derivative where r = 0
        misfit = parts.square().flatten(1).sum(1)
        return 0.5 * misfit + self.functional.value(x) + 0.5 * self.ridge * x.square().sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        g = self.misfit_gradient(x) + self.functional.gradient(x)
        return g.add_(x, alpha=self.ridge) if self.ridge else g

    def hessian(self, x: Tensor) -> Hessian:
        """Return v -> A^T A v + d2R/dx2(x) v + ridge v."""
        return Hessian(self, x, self.functional.hessian(x))

    def check_curvature(self, least: Tensor, largest: Tensor | None = None) -> None:  # (B,), (B,)
        """Compare quotients <v, H v> / <v, v> that were seen, at any x, with `bounds`.

        Raises CurvatureError where they contradict them by more than rounding. A modulus that is assumed claims
        nothing, nor does an L whose operator has no proven norm.
        """
        mu, claimed = self.bounds
        slack = ROUNDINGS * torch.finfo(least.dtype).eps * claimed
        low = float(least.min())
        if self.assumed is None and low < mu - slack:
            raise CurvatureError("mu", mu, low)
        if largest is not None and self.operator.norm_proven and float(largest.max()) > claimed + slack:
            raise CurvatureError("L", claimed, float(largest.max()))

    def take(self, images: Tensor) -> Energy:
        """Return the energy of these images of the batch alone."""
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
    """The Hessian d2h/dx2 at x; what depends on x alone was computed once."""

    energy: Energy
    x: Tensor
    curvature: Callable[[Tensor], Tensor]

    def __call__(self, v: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        h = self.curvature(v).add_(self.energy.operator.normal(v))
        return h.add_(v, alpha=self.energy.ridge) if self.energy.ridge else h

    def take(self, images: Tensor) -> Hessian:
        """Return the Hessian of these images of the batch alone."""
        if len(images) == len(self.x):
            return self
        return self.energy.take(images).hessian(self.x[images])


Solver = Callable[[Energy, Tensor, float], LowerSolution]  # (energy, start, accuracy)
