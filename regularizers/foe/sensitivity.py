"""How much the second derivatives of a field of experts can change around x.

With u = C x, every x' with ||x' - x|| <= r has responses u' with

    |u'_ki - u_ki| <= r_k = r n_k,   ||u'_k - u_k|| <= r a_k,   ||u' - u|| <= r a,

n_k the norm of a row of C_k, a_k that of C_k, a that of C. A derivative psi of phi changes between kinks by at most
lip_i |u'_i - u_i|, lip_i its Lipschitz constant on [u_i - r_k, u_i + r_k], and jumps at a kink only where u_i is within
r_k of it. How many responses can jump is limited by the norms: for gains g_i >= 0 at distances d_i,

    sum_i g_i [|u'_i - u_i| >= d_i]  <=  min over lambda >= 0 of  lambda B^2 + sum_i max(0, g_i - lambda d_i^2)

if ||u' - u|| <= B (weak duality). Any lambda gives a bound; a few are tried.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from regularizers.foe.filter_bank import analysis, boundary_factor, pad, spectral_bound, tiles
from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.functional import Sensitivity

MULTIPLIERS = 4.0 ** torch.arange(0, 9)  # of the smallest useful lambda


def sensitivity(
    functional: FieldOfExpertsFunctional, x: Tensor, q: Tensor, radius: Tensor, scales: tuple[Tensor, ...]
) -> Sensitivity:
    """Bounds for theta with ||(dc/dtheta)^T y|| <= (sum_k sum_groups ||scales y||^2)^(1/2), y derivatives by filters,
    weights, smoothings and columns of the shape (scales (K,) each), of filters that stay zero-mean. Radius (B,)."""
    return _Sums(functional, x, q, radius).bounds(scales)


class _Sums:
    """One pass over the responses; (B, K) where an expert matters, (B,) where all are taken together."""

    def __init__(self, f: FieldOfExpertsFunctional, x: Tensor, q: Tensor, radius: Tensor) -> None:
        self.f, self.radius = f, radius
        self.size = f.filters.shape[-1]
        factor = boundary_factor(f.boundary)
        ones = torch.ones_like(f.weights.flatten())
        self.row = (factor * f.filters.square().sum((1, 2, 3))).sqrt()  # n_k
        self.norm = torch.stack([spectral_bound(c[None], ones[:1], f.boundary) for c in f.filters]).sqrt()  # a_k
        self.all = spectral_bound(f.filters, ones, f.boundary).sqrt()  # a
        self.padding = factor**0.5
        batch, experts = len(x), len(f.filters)

        def zeros(*shape: int) -> Tensor:
            return x.new_zeros(batch, *shape)

        self.curvature = zeros(experts)  # sup phi''
        self.trace = zeros(experts)  # sum_i sup phi''_i ||patch_i||^2
        self.influence = zeros(experts)  # ||phi'(u)||^2
        parameters = range(len(f.potential.derivatives_by_parameters))  # w, s, a_1, ..., a_J
        self.shape = [zeros(experts) for _ in parameters]  # sup ||d phi' / dw||^2, sup ||d phi' / ds||^2, ...
        self.product = zeros(experts)  # ||phi''(u) v||^2
        self.steepest, self.spread = zeros(), zeros()  # max lip |v|, sum (lip v r)^2
        self.by_x, self.by_q = (
            zeros(experts),
            zeros(experts),
        )  # sum_i (lip v)^2 ||patch||^2, sum_i (phi'' ||q patch||)^2
        self.by_shape = [zeros(experts) for _ in parameters]  # sum_i (lip v)^2
        self.jumps = [_Jumps(zeros(), zeros(), self.all * radius)] + [
            _Jumps(zeros(experts), zeros(experts), self.norm * radius[:, None]) for _ in range(3)
        ]
        for first in (True, False):  # the multipliers of the jumps need the largest gains
            for tile in self._tiles(x, q):
                self._add(first, *tile)

    def _tiles(self, x: Tensor, q: Tensor) -> Iterator[tuple]:
        f = self.f
        x, q = (pad(t, self.size, f.boundary) for t in (x, q))
        for tile in tiles(x.shape, f.filters):
            u, v = analysis(x[tile], f.filters), analysis(q[tile], f.filters)
            yield tile[0], u, v, _patch_energy(x[tile], self.size), _patch_energy(q[tile], self.size)

    def _add(self, first: bool, b: slice, u: Tensor, v: Tensor, x_energy: Tensor, q_energy: Tensor) -> None:
        potential, w, s = self.f.potential, self.f.weights, self.f.smoothings
        r = self.row[:, None, None] * self.radius[b, None, None, None]
        t, v = u.abs(), v.abs()
        reached = [(kink, (t - kink.place).abs()) for kink in potential.kinks(w, s)]
        for kink, distance in reached:
            near = distance <= r
            gains = (
                (kink.jumps[0] * v).square(),
                kink.jumps[0] * v * x_energy.sqrt(),
                kink.jumps[1] * v,
                kink.jumps[2] * v,
            )
            for jumps, gain in zip(self.jumps, gains, strict=True):
                jumps.note(b, gain * near) if first else jumps.add(b, gain, distance, near, len(reached))
        if first:
            return
        bounds = potential.variation((t - r).clamp(min=0), t + r, w, s)
        lipschitz = [constant * v for constant in bounds.lipschitz]
        self.curvature[b] = torch.maximum(self.curvature[b], bounds.curvature.amax((2, 3)))
        self.trace[b] += (bounds.curvature * x_energy).sum((2, 3))
        self.influence[b] += (w * potential.influence(u, w, s)).square().sum((2, 3))
        self.product[b] += (potential.curvature(u, w, s) * v).square().sum((2, 3))
        self.steepest[b] = torch.maximum(self.steepest[b], lipschitz[0].amax((1, 2, 3)))
        self.spread[b] += (lipschitz[0] * r).square().sum((1, 2, 3))
        self.by_x[b] += (lipschitz[0].square() * x_energy).sum((2, 3))
        self.by_q[b] += (bounds.curvature.square() * q_energy).sum((2, 3))
        for i, derivative in enumerate(potential.derivatives_by_parameters, 1):
            largest = derivative(u, w, s).abs() + bounds.lipschitz[i] * r
            for kink, distance in reached if i <= 2 else ():  # those by the shape do not jump
                largest = largest + kink.jumps[i] * (distance <= r)
            self.shape[i - 1][b] += largest.square().sum((2, 3))
            self.by_shape[i - 1][b] += lipschitz[i].square().sum((2, 3))

    def bounds(self, scales: tuple[Tensor, ...]) -> Sensitivity:
        f, r = self.f, self.radius
        moved = self.size * self.padding * r[:, None]  # >= norm of the change of all patches
        change = torch.minimum(self.steepest * self.all * r, self.spread.sqrt()) + self.jumps[0].total().sqrt()
        by_filters, *by_parameters = scales

        # J(x')^T q by filters: patches' phi'' C q + q's patches phi'. The first is at most the root of
        # <q, sum_k (scale trace)_k C_k^T phi'' C_k q>.
        patches = by_filters * (self.trace.sqrt() + moved * self.curvature.sqrt())
        stiffness = patches.square() * self.curvature
        first = torch.stack([spectral_bound(f.filters, row, f.boundary) for row in stiffness]).sqrt()
        influence = self.influence.sqrt() + self.curvature * self.norm * r[:, None]
        second = self.size * self.padding * (by_filters * influence).norm(dim=1)
        shapes = [
            (scale * self.norm * total.sqrt()).norm(dim=1)
            for scale, total in zip(by_parameters, self.shape, strict=True)
        ]
        jacobian = torch.stack([first + second, *shapes]).norm(dim=0)

        step = self.norm * r[:, None]
        filters = moved * self.product.sqrt() + (self.by_x.sqrt() + self.by_q.sqrt()) * step + self.jumps[1].total()
        parts = [by_filters * filters, by_filters.max() * moved * change[:, None]]
        jumps = [j.total() for j in self.jumps[2:]] + [0.0] * (len(by_parameters) - 2)  # those by the shape do not
        for scale, total, jump in zip(by_parameters, self.by_shape, jumps, strict=True):
            parts.append(scale * (total.sqrt() * step + jump))
        jacobian_product = torch.stack([part.norm(dim=1) for part in parts]).norm(dim=0)
        return Sensitivity(f.scale * jacobian, f.scale * self.all * change, f.scale * jacobian_product)


class _Jumps:
    """min over lambda of lambda B^2 + sum_i max(0, g_i - lambda d_i^2), summed tile by tile; shapes (B,) or (B, K)."""

    def __init__(self, largest: Tensor, total: Tensor, budget: Tensor) -> None:
        self.largest, self.budget = largest, budget
        self.sums = total.unsqueeze(-1).repeat(*[1] * total.ndim, len(MULTIPLIERS))

    @property
    def lambdas(self) -> Tensor:  # (..., len(MULTIPLIERS))
        smallest = self.largest / self.budget.square().clamp(min=torch.finfo(self.budget.dtype).tiny)
        return smallest.unsqueeze(-1) * MULTIPLIERS.to(smallest)

    def note(self, b: slice, gain: Tensor) -> None:
        self.largest[b] = torch.maximum(self.largest[b], gain.amax((2, 3) if self.largest.ndim == 2 else (1, 2, 3)))

    def add(self, b: slice, gain: Tensor, distance: Tensor, near: Tensor, kinks: int) -> None:
        """One response may pass several kinks, but its way is counted once: each gets its share of lambda."""
        image, expert, row, column = near.nonzero(as_tuple=True)
        gain, squared = gain[image, expert, row, column], distance[image, expert, row, column].square() / kinks
        place = image * near.shape[1] + expert if self.largest.ndim == 2 else image
        lambdas, sums = self.lambdas[b].flatten(0, -2), self.sums[b].flatten(0, -2)
        left = (gain.unsqueeze(1) - lambdas[place] * squared.unsqueeze(1)).clamp(min=0)
        self.sums[b] = sums.index_add(0, place, left).view_as(self.sums[b])

    def total(self) -> Tensor:
        return (self.lambdas * self.budget.square().unsqueeze(-1) + self.sums).amin(-1)


def _patch_energy(x: Tensor, size: int) -> Tensor:  # (B, C, H, W) -> (B, 1, H - s + 1, W - s + 1)
    """sum_c ||patch - mean of the patch||^2, all a zero-mean filter sees."""
    box = torch.ones(x.shape[1], 1, size, size, dtype=torch.float64, device=x.device)
    sums, squares = (F.conv2d(t, box, groups=x.shape[1]) for t in (x.double(), x.double().square()))
    return (squares - sums.square() / size**2).sum(1, keepdim=True).clamp(min=0).to(x.dtype)
