"""Reconstruction of measurements by a regularizer: argmin_x 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2, certified."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from deepinv.physics import LinearPhysics
from deepinv.utils import TensorList
from torch import Tensor

from app.evaluation.guide import lower_problem
from app.lower import lbfgs
from app.lower.energy import Solver
from app.lower.solution import LowerSolution, in_order
from app.lower.stationary import certified_or_stationary
from app.problem.operators import (
    LinearOperator,
    OperatorError,
    check_measurements,
    noise_level_of,
    require_linear,
    wrapped,
)
from app.problem.stacked import in_a_row
from regularizers import Regularizer, for_channels, require_regularizer
from regularizers.conversion import converted

Measuring = LinearPhysics | LinearOperator | Sequence[LinearPhysics]  # the same for all images, or one for each


def reconstruct(
    regularizer: Regularizer,
    y: Tensor | TensorList,
    physics: Measuring,
    *,
    ridge: float = 0.0,
    accuracy: float = 0.1,
    image_shape: Sequence[int] | None = None,
    noise_level: float | None = None,
    solver: Solver = lbfgs.solve,
) -> LowerSolution:  # y (B, ...) -> x (B, C, H, W)
    """Return argmin_x 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2 with a certified bound on the distance to it.

    physics: one, or one for each image; y is a TensorList where deepinv has stacked several that see the same images.
    accuracy: bound on ||x - argmin h|| that is asked for, an l2 norm.  image_shape: (C, H, W); None: that of A^T y.
    noise_level: of a regularizer for many levels; None: that of the physics.
    Where h is not provably strongly convex, x is stationary and its bound infinite. x carries no gradient: parameters
    are learned by `fit` or `hypergradient`. A regularizer, its measurements and the accuracy need as many arguments;
    all but three have defaults. Raises OperatorError, RegularizerError or NoiseLevelError.
    """
    require_regularizer(regularizer)
    check_accuracy(accuracy, ridge)
    if isinstance(physics, Sequence):
        each = partial(
            reconstruct, regularizer, ridge=ridge, accuracy=accuracy, image_shape=image_shape, noise_level=noise_level,
            solver=solver,
        )  # fmt: skip
        if len(physics) != len(y):
            raise OperatorError(f"there are {len(physics)} physics for {len(y)} images: give one, or one for each")
        found = [each(y[i : i + 1], own) for i, own in enumerate(physics)]
        if len({s.x.shape for s in found}) > 1:
            raise OperatorError("the physics have images of different shapes: reconstruct them one by one")
        return in_order(found)
    if not isinstance(physics, LinearOperator):
        require_linear(physics)
        if isinstance(y, TensorList):
            image_shape = physics.A_adjoint(y).shape[1:] if image_shape is None else image_shape
    y = in_a_row(y) if isinstance(y, TensorList) else y
    _check_fit(regularizer, y)
    given = y.real.dtype if y.is_complex() else y.dtype
    if given.itemsize < 4:  # few bits are for storage, not for solving
        y = y.to(torch.complex64 if y.is_complex() else torch.float32)
        regularizer = converted(regularizer, torch.float32)
    with torch.autocast(y.device.type, enabled=False):
        operator = physics if isinstance(physics, LinearOperator) else wrapped(physics, y, image_shape)
        if regularizer.noise_nodes:
            regularizer = regularizer.at(noise_level_of(operator.physics) if noise_level is None else noise_level)
        safe, regularizer = certified_or_stationary(solver), for_channels(regularizer, operator.image_shape[0])
        return lower_problem(regularizer, operator, y, ridge, safe).solve(safe, accuracy, given)


def _check_fit(regularizer: Regularizer, y: Tensor) -> None:
    """Raise OperatorError where a regularizer and measurements (B, ...) do not go together."""
    check_measurements(y)
    if y.requires_grad and torch.is_grad_enabled():
        warnings.warn("y asks for gradients, and a reconstruction carries none", stacklevel=3)
    own, parts = next(regularizer.parameters(), None), y.real if y.is_complex() else y
    if own is not None and (own.dtype != parts.dtype or own.device != y.device):
        raise OperatorError(
            f"measurements are {y.dtype} on {y.device}, the regularizer is {own.dtype} on {own.device}: convert one"
        )


def check_accuracy(accuracy: float, ridge: float = 0.0) -> None:
    """Raise OperatorError where these are no numbers that a lower level can be solved with."""
    for name, value, fits in (("accuracy", accuracy, "above 0"), ("ridge", ridge, "at least 0")):
        number = isinstance(value, int | float | Tensor)
        if not number or not 0 <= value < float("inf") or (name == "accuracy" and value == 0):
            raise OperatorError(f"{name} = {value!r} must be {fits}")
