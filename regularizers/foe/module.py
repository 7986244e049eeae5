"""A field of experts as a module: what is learned, and how it becomes the functional of functional.py.

R(x) = scale sum_k sum_i phi((c_k * x)_i; w_k, s_k),    c_k = filters, w_k = exp(log_weights) > 0, s_k > 0,

or phi of groups of responses, with w and s for each group (multivariate fields of experts, arXiv 2508.06490).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regularizers.foe.composition import ComposedFilters
from regularizers.foe.filter_bank import BOUNDARIES, spectral_bound
from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.foe.groups import GroupPotential, group_potential
from regularizers.foe.initial_filters import dct_filters
from regularizers.foe.potential import Potential
from regularizers.foe.potentials import POTENTIALS
from regularizers.foe.sensitivity import sensitivity
from regularizers.foe.spline import LearnedPotential
from regularizers.functional import RegularizerError, Sensitivity
from regularizers.noise_levels import initial_at_nodes
from regularizers.regularizer import Regularizer, require_positive


class FieldOfExperts(Regularizer):
    """Field of experts with learned filters (zero mean per channel), weights, smoothings and, of a `LearnedPotential`,
    its shape.

    Every filter has unit norm and scale = 1, except with `budgeted` potentials: there the whole bank is divided by the
    root of its `spectral_bound`, so that sum_k C_k^T C_k <= 1, and scale = `weak_convexity` = rho < 1; R is then
    rho-weakly convex for every value of the parameters (the scheme of arXiv 2308.10542).

    Raises RegularizerError where the arguments do not fit each other or a name is unknown. The arguments are
    channels: 1, 3 for RGB, 2 for complex images.  filters: K.  filter_size: s in pixels, odd.
    potential: a name of `potentials.POTENTIALS` or a record of one's own.  boundary: one of `filter_bank.BOUNDARIES`.
    weak_convexity: rho, for `budgeted` potentials only.
    weight, smoothing: common initial w and s, in units of the filter responses; with `noise_nodes` > 0 those at the
    noise level 25/255, and both are proportional to the level.
    hidden_channels: (n_1, ...) composes the filters of layers with so many channels between them, each of filter_size.
    shared_potential: whether a learned shape is one for all filters.
    least_smoothing: s never falls below it, so that L does not outgrow what the solver pays for; not for `budgeted`
    potentials.  largest_curvature: of `mcp`, phi'' never exceeds it, because s >= w / largest_curvature; 0: no bound.
    group_size: 2 or 4 for `huber` or `mcp` of so many responses together, those of filters that follow each other, of
    which there is a multiple of it; their norm is `group_norm`, one of `groups.NORMS`. 1: of single responses.
    """

    has_sensitivity: bool = True

    def __init__(
        self, channels: int = 1, filters: int = 32, filter_size: int = 7,
        potential: str | Potential | LearnedPotential = "charbonnier", *, boundary: str = "circular",
        weak_convexity: float = 0.95, weight: float = 0.01, smoothing: float = 0.01,
        hidden_channels: tuple[int, ...] = (), shared_potential: bool = True, noise_nodes: int = 0,
        least_smoothing: float = 0.0, largest_curvature: float = 0.0, group_size: int = 1, group_norm: str = "l2",
    ) -> None:  # fmt: skip
        super().__init__(noise_nodes)
        require_positive(weight=weight, smoothing=smoothing)
        if boundary not in BOUNDARIES:
            raise RegularizerError(f"boundary must be one of {', '.join(BOUNDARIES)}, not {boundary}")
        self.potential, self.boundary = _potential(potential, group_size, group_norm), boundary
        if filters % group_size:
            raise RegularizerError(f"filters must be a multiple of group_size = {group_size}, not {filters}")
        self.has_sensitivity = group_size == 1
        self.scale = weak_convexity if self.potential.budgeted else 1.0
        self.least_smoothing = 0.0 if self.potential.budgeted else least_smoothing
        self.least_share = 1 / largest_curvature if self.potential.budgeted and largest_curvature else 0.0
        least = self.least_share * weight if self.potential.budgeted else least_smoothing
        if not least < smoothing < (weight if self.potential.budgeted else math.inf):
            below = f" and below weight = {weight:g}" if self.potential.budgeted else ""
            raise RegularizerError(f"smoothing = {smoothing:g} must be above {least:g}{below}")
        self.composition = ComposedFilters(channels, hidden_channels, filters, filter_size) if hidden_channels else None
        if self.composition is None:
            self.raw_filters = nn.Parameter(dct_filters(channels, filters, filter_size))
        groups = filters // group_size
        self.log_weights = nn.Parameter(initial_at_nodes(torch.full((groups, 1, 1), weight).log(), noise_nodes))
        if not (isinstance(self.potential, LearnedPotential) and self.potential.budgeted):
            raw = smoothing - least_smoothing
            if self.potential.budgeted:
                raw = (1 - self.least_share) / (smoothing / weight - self.least_share) - 1
            exponent = 0 if self.potential.budgeted else 1
            raw = torch.tensor(raw).log().repeat(groups, 1, 1)
            self.raw_smoothings = nn.Parameter(initial_at_nodes(raw, noise_nodes, exponent))
        if isinstance(self.potential, LearnedPotential):
            rows = 1 if shared_potential else filters
            self.raw_shape = nn.Parameter(self.potential.initial(weight, smoothing).repeat(rows, 1))
        if isinstance(self.potential, GroupPotential) and self.potential.budgeted:
            first = torch.linspace(0.9, 0.8, group_size).diag()  # norms have no derivative at the identity
            self.raw_matrices = nn.Parameter(first.repeat(groups, 1, 1))

    def functional(self) -> FieldOfExpertsFunctional:
        filters = self.centred_filters()
        if self.potential.budgeted:
            ones = filters.new_ones(filters.shape[0])
            filters = filters / spectral_bound(filters, ones, self.boundary).sqrt()
        else:
            filters = filters / filters.square().sum((1, 2, 3), keepdim=True).sqrt()
        weights, potential = self._present(self.log_weights).exp(), self.potential
        if isinstance(potential, LearnedPotential):
            potential = potential.at(self.raw_shape.expand(len(weights), -1))
        if isinstance(potential, GroupPotential) and potential.budgeted:
            potential = potential.at(weights, self.raw_matrices)
        raw = self._present(self.raw_smoothings) if hasattr(self, "raw_smoothings") else weights
        least = self.least_smoothing + self.least_share * weights
        smoothings = least + (1 - self.least_share) * potential.smoothing(weights, raw)
        return FieldOfExpertsFunctional(filters, weights, smoothings, potential, self.boundary, self.scale)

    def centred_filters(self) -> Tensor:  # -> (K, C, s, s)
        """Return the filters with their mean taken away, before they are normalized."""
        filters = self.raw_filters if self.composition is None else self.composition()
        return filters - filters.mean((2, 3), keepdim=True)

    @torch.no_grad()
    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:  # 2 x (B, C, H, W), (B,)
        if not self.has_sensitivity:
            return super().sensitivity(x, q, radius)
        return sensitivity(self.functional(), x, q, radius, _scales(self))


def _potential(
    potential: str | Potential | LearnedPotential, group_size: int, group_norm: str
) -> Potential | LearnedPotential | GroupPotential:
    """Return the record of a name. Raises RegularizerError where there is none."""
    if isinstance(potential, str):
        if potential not in POTENTIALS:
            raise RegularizerError(f"potential must be one of {', '.join(POTENTIALS)}, not {potential}")
        potential = POTENTIALS[potential]
    return potential if group_size == 1 else group_potential(potential.name, group_norm, group_size)


def _scales(field: FieldOfExperts) -> tuple[Tensor, ...]:
    """Return how much longer derivatives by theta can be than those by the natural parameters, per expert (K,).

    There is one tensor for the filters, the weights, the smoothings and each column of the shape: for derivatives y by
    these, the derivative by theta is at most (sum_k (f_k ||y_c,k||)^2 + (g_k y_w,k)^2 + ...)^(1/2) long.
    """
    functional = field.functional()
    w, s = functional.weights.flatten(), functional.smoothings.flatten()
    if field.potential.budgeted:  # w and s both move with log w, hence the roots
        w, s = 2**0.5 * w, (2**0.5 if isinstance(field.potential, LearnedPotential) else 3**0.5) * s
    return _of_filters(field, functional.filters), w, s, *_of_shape(field, functional.potential.shape)


def _of_filters(field: FieldOfExperts, filters: Tensor) -> Tensor:  # (K, C, s, s) -> (K,)
    """Return f_k: the norm of the derivative of filter k by what it is made of."""
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


def _of_shape(field: FieldOfExperts, shape: Tensor | None) -> tuple[Tensor, ...]:  # (K, J) -> J x (K,)
    """Return the factors of the shape: da = (a - lowest) d raw, and a shared row moves all experts at once."""
    if shape is None or not isinstance(field.potential, LearnedPotential):
        return ()
    shared = (len(shape) / len(field.raw_shape)) ** 0.5
    return (shared * (shape - field.potential.lowest)).unbind(1)
