"""Reconstruction of measurements by a regularizer: argmin_x 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2, certified."""

from __future__ import annotations

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from app.evaluation.guide import lower_problem
from app.lower import lbfgs
from app.lower.energy import Solver
from app.lower.solution import LowerSolution
from app.lower.stationary import certified_or_stationary
from app.problem.operators import LinearOperator, OperatorError, noise_level_of, wrap
from regularizers import Regularizer


def reconstruct(
    regularizer: Regularizer,
    y: Tensor,
    physics: LinearPhysics | LinearOperator,
    *,
    ridge: float = 0.0,
    accuracy: float = 0.1,
    image_shape: torch.Size | None = None,
    noise_level: float | None = None,
    solver: Solver = lbfgs.solve,
) -> LowerSolution:  # y (B, ...) -> x (B, C, H, W)
    """Return argmin_x 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2 with a certified bound on the distance to it.

    accuracy: bound on ||x - argmin h|| that is asked for, an l2 norm.  image_shape: (C, H, W); None: that of A^T y.
    noise_level: of a regularizer for many levels; None: that of the physics.
    Where h is not provably strongly convex, x is stationary and its bound infinite. A regularizer, its measurements and
    the accuracy need as many arguments; all but three have defaults. Raises OperatorError or NoiseLevelError.
    """
    operator = physics if isinstance(physics, LinearOperator) else _wrapped(physics, y, image_shape)
    if regularizer.noise_nodes:
        regularizer = regularizer.at(noise_level_of(operator.physics) if noise_level is None else noise_level)
    safe = certified_or_stationary(solver)
    return lower_problem(regularizer, operator, y, ridge, safe).solve(safe, accuracy)


def _wrapped(physics: LinearPhysics, y: Tensor, image_shape: torch.Size | None) -> LinearOperator:
    if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()) or not bool(y.isfinite().all()):
        raise OperatorError(
            "measurements must be a finite float or complex tensor with the images along its first axis"
        )
    try:
        shape = image_shape or physics.A_adjoint(y[:1]).shape[1:]
    except Exception as error:  # a physics may raise anything
        reason = " ".join(str(error).split())
        raise OperatorError(f"{type(physics).__name__} does not take these measurements: {reason}") from None
    dtype = y.real.dtype if y.is_complex() else y.dtype
    operator = wrap(physics, shape, dtype=dtype, device=str(y.device))
    expected = operator.forward(torch.zeros(1, *shape, dtype=dtype, device=y.device)).shape[1:]
    if y.shape[1:] != expected:
        raise OperatorError(f"measurements of shape {tuple(y.shape[1:])}, but A x has {tuple(expected)}")
    return operator
