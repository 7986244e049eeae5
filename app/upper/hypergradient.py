"""The hypergradient of a batch by the implicit function theorem, inexact to a prescribed accuracy.

    grad f = mean_b - J_b^T q_b,    H_b q_b = grad loss_b(x_b),    H = d2h/dx2,  J = d2h/(dtheta dx)  at x_b.

(arXiv 2308.10098, section 2; Pedregosa, ICML 2016.)
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
from app.lower.preconditioner import preconditioner
from app.lower.solution import LowerSolution
from app.lower.stationary import with_modulus
from app.upper.linear import LinearSolution, conjugate_gradient
from regularizers.functional import Sensitivity


class Learned(Protocol):
    """What the upper level moves: parameters theta, with the derivatives of h by them, in their order.

    x and q are images (B, C, H, W), and J = d2h/(dtheta dx).
    mixed, slopes: J^T q and dh/dtheta, summed over the batch.
    sensitivity: bounds on J and on the changes of J^T q and H q within `radius` (B,) of x, where `has_sensitivity`.
    """

    @property
    def has_sensitivity(self) -> bool: ...
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]: ...
    def slopes(self, x: Tensor) -> tuple[Tensor, ...]: ...
    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity: ...


class Loss(Protocol):
    """A loss of each image of a batch; smoothness is the Lipschitz constant L_g of its gradient."""

    @property
    def smoothness(self) -> float: ...
    def value(self, x: Tensor) -> Tensor: ...  # (B, C, H, W) -> (B,)
    def gradient(self, x: Tensor) -> Tensor: ...  # (B, C, H, W) -> (B, C, H, W)
    def take(self, images: Tensor) -> Self: ...  # the loss of these images of the batch


@dataclass(frozen=True, kw_only=True)
class Hypergradient:
    """An inexact hypergradient with the two solves that it is made of.

    Of a mini-batch that several processes share, gradient, inexactness and converged are those of all its images, and
    the other numbers those of one process.
    """

    gradient: tuple[Tensor, ...]  # d/dtheta of the mean loss, one per parameter
    loss: Tensor  # (B,) at the inexact x
    lower: LowerSolution
    linear: LinearSolution
    computations: Tensor  # (B,) gradients of h, products with H and preconditioners: the papers' unit of cost
    inexactness: Tensor  # (B,) the larger of the error bound of x and the residual of q
    converged: Tensor  # (B,) bool: whether both solves reached their accuracy


@torch.no_grad()
def hypergradient(
    learned: Learned, energy: Energy, loss: Loss, solve: Solver, start: Tensor, *, accuracy: float,
    adjoint_start: Tensor | None = None,
) -> Hypergradient:  # starts (B, C, H, W)  # fmt: skip
    """Solve the lower level to ||x - x*|| <= accuracy and the linear system to ||H q - grad loss|| <= L_g accuracy.

    One accuracy serves both: an error eps in x already moves the right-hand side by L_g eps, and L_g = 1 for the
    squared error of weight 1. An image that cannot be solved to the accuracy is used with the error it reached;
    `lower.converged` and `linear.converged` say so. Where h is not strongly convex and `solve` copes with it, H can be
    indefinite: conjugate gradients then end where they notice.

    Raises CurvatureError where conjugate gradients have met curvatures outside the claimed [mu, L]. Seven parameters:
    three make the problem, two the starts, and two say how it is solved.
    """
    lower = solve(energy, start, accuracy)
    b = loss.gradient(lower.x)
    tolerance = b.new_full((len(b),), loss.smoothness * accuracy)
    linear, computations = adjoint(energy, lower.x, b, tolerance, adjoint_start)
    gradient = tuple(-g / len(b) for g in learned.mixed(lower.x, linear.q))
    return Hypergradient(
        gradient=gradient, loss=loss.value(lower.x), lower=lower, linear=linear,
        computations=lower.iterations + computations, inexactness=torch.maximum(lower.error_bound, linear.residual),
        converged=lower.converged & linear.converged,
    )  # fmt: skip


def warn_of_zero(z: Hypergradient) -> None:
    """Warn where nothing was solved for, so that the hypergradient is 0 and says nothing."""
    if not any(bool(t.any()) for t in (*z.gradient, z.linear.q)):
        warnings.warn(  # without the number of a step, so that Python says it once
            "a hypergradient is zero: the accuracy of the lower level exceeds the gradient of the loss, so nothing was "
            "solved for; ask for a smaller accuracy (upper.accuracy)", stacklevel=3,
        )  # fmt: skip


def adjoint(
    energy: Energy, x: Tensor, b: Tensor, tolerance: Tensor, start: Tensor | None = None
) -> tuple[LinearSolution, Tensor]:  # x, b (B, C, H, W), tolerance (B,)
    """Return q with ||H q - b|| <= tolerance, H = d2h/dx2 at x, and the computations (B,) of it. Raises CurvatureError
    where curvatures outside the claimed [mu, L] were met."""
    inverse = preconditioner(with_modulus(energy), x)
    found = conjugate_gradient(energy.hessian(x), b, tolerance, start, inverse)
    energy.check_curvature(found.least, found.largest)
    return found, found.iterations + int(inverse is not None)
