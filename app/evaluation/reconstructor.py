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
from app.problem.operators import LinearOperator, OperatorError, check_measurements, noise_level_of, wrapped
from regularizers import Regularizer, for_channels
from regularizers.conversion import converted


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
    check_measurements(y)
    if not (ridge >= 0 and accuracy > 0):
        raise OperatorError(f"ridge = {ridge} must be at least 0, and accuracy = {accuracy} above 0")
    own = next(regularizer.parameters(), None)
    if own is not None and (own.dtype != (y.real if y.is_complex() else y).dtype or own.device != y.device):
        raise OperatorError(
            f"measurements are {y.dtype} on {y.device}, the regularizer is {own.dtype} on {own.device}: convert one"
        )
    given = (y.real if y.is_complex() else y).dtype
    if given.itemsize < 4:  # few bits are for storage, not for solving
        y, regularizer = y.float(), converted(regularizer, torch.float32)
    operator = physics if isinstance(physics, LinearOperator) else wrapped(physics, y, image_shape)
    if regularizer.noise_nodes:
        regularizer = regularizer.at(noise_level_of(operator.physics) if noise_level is None else noise_level)
    safe, regularizer = certified_or_stationary(solver), for_channels(regularizer, operator.image_shape[0])
    return lower_problem(regularizer, operator, y, ridge, safe).solve(safe, accuracy, given)
