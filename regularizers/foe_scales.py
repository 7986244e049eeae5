"""How far the parameters theta of a field of experts move its natural parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regularizers.filter_bank import spectral_bound
from regularizers.spline import LearnedPotential

if TYPE_CHECKING:
    from regularizers.foe import FieldOfExperts


def scales(field: FieldOfExperts) -> tuple[Tensor, ...]:
    """Per expert (K,), for derivatives y by filters, weights, smoothings and each column of the shape: numbers with
    which the derivative by theta is at most (sum_k (f_k ||y_c,k||)^2 + (g_k y_w,k)^2 + ...)^(1/2) long."""
    functional = field.functional()
    w, s = functional.weights.flatten(), functional.smoothings.flatten()
    if field.potential.budgeted:  # w and s both move with log w, hence the roots
        w, s = 2**0.5 * w, (2**0.5 if isinstance(field.potential, LearnedPotential) else 3**0.5) * s
    return _of_filters(field, functional.filters), w, s, *_of_shape(field, functional.potential.shape)


def _of_filters(field: FieldOfExperts, filters: Tensor) -> Tensor:
    centred = field.centred_filters().detach()
    composition = 1.0 if field.composition is None else field.composition.derivative_norm()
    if not field.potential.budgeted:
        return composition / centred.square().sum((1, 2, 3)).sqrt()
    # c = f / nu(f):  dc^T y = y / nu - <c, y> grad nu / nu.
    with torch.enable_grad():
        f = centred.requires_grad_()
        nu = spectral_bound(f, f.new_ones(len(f)), field.boundary).sqrt()
        (slope,) = torch.autograd.grad(nu, f)
    return (composition * (1 + filters.norm() * slope.norm()) / nu).detach().expand(len(f))


def _of_shape(field: FieldOfExperts, shape: Tensor | None) -> tuple[Tensor, ...]:
    """da = (a - lowest) d raw, and a shared row moves all experts at once."""
    if shape is None or not isinstance(field.potential, LearnedPotential):
        return ()
    shared = (len(shape) / len(field.raw_shape)) ** 0.5
    return (shared * (shape - field.potential.lowest)).unbind(1)
