"""Bounds on how much the second derivatives of a field of experts can change around x.

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
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from regularizers.foe.filter_bank import analysis, boundary_factor, pad, spectral_bound, tiles
from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.foe.potential import Potential
from regularizers.functional import Sensitivity

MULTIPLIERS = 4.0 ** torch.arange(0, 9)  # of the smallest useful lambda


def sensitivity(
    functional: FieldOfExpertsFunctional, x: Tensor, q: Tensor, radius: Tensor, scales: tuple[Tensor, ...]
) -> Sensitivity:
    """Bound the changes for x, q (B, C, H, W) and radius (B,).

    theta is such that ||(dc/dtheta)^T y|| <= (sum_k sum_groups ||scales y||^2)^(1/2), with y derivatives by filters,
    weights, smoothings and columns of the shape (scales (K,) each), and filters stay zero-mean.
    """
    sums = _Sums(functional, x, radius)
    for largest_gains in (True, False):  # the multipliers of the jumps need the largest gains
        for tile in _tiles(functional, x, q):
            sums.add(largest_gains, *tile)
    return sums.bounds(scales)


class _Sums:
    """Sums and suprema over all responses of an image: (B, K) where an expert matters, (B,) where all are together.

    sup is over the ball; lip is the Lipschitz constant of phi''; v = C q, and patch the pixels that a filter sees, of x
    or of q. Lists have an entry for each parameter of the potential: w, s, a_1, ..., a_J.
    """

    def __init__(self, f: FieldOfExpertsFunctional, x: Tensor, radius: Tensor) -> None:
        assert isinstance(f.potential, Potential)  # none of groups
        self.f, self.potential, self.radius = f, f.potential, radius
        bound = partial(spectral_bound, boundary=f.boundary)
        factor, ones = boundary_factor(f.boundary), torch.ones_like(f.weights.flatten())
        self.pixel = (factor * f.filters.square().sum((1, 2, 3))).sqrt()  # (K,) n_k
        self.expert = torch.stack([bound(c[None], ones[:1]) for c in f.filters]).sqrt()  # (K,) a_k
        self.bank = bound(f.filters, ones).sqrt()  # [] a
        self.patches = f.filters.shape[-1] * factor**0.5  # bounds ||change of all patches|| / ||change of the image||
        images, experts = partial(x.new_zeros, len(x)), partial(x.new_zeros, len(x), len(f.filters))
        self.curvature = experts()  # sup phi''
        self.trace = experts()  # sum_i sup phi''_i ||patch_i||^2
        self.influence = experts()  # ||phi'(u)||^2
        self.product = experts()  # ||phi''(u) v||^2
        self.moved_by_x = experts()  # sum_i (lip v)^2 ||patch||^2
        self.moved_by_q = experts()  # sum_i (phi'' ||q patch||)^2
        self.steepest = images()  # max_i lip |v|
        self.spread = images()  # sum_i (lip v r)^2
        count = len(self.potential.derivatives_by_parameters)
        self.parameters = [experts() for _ in range(count)]  # sup ||d phi' / dw||^2, sup ||d phi' / ds||^2, ...
        self.moved_parameters = [experts() for _ in range(count)]  # sum_i (lip v)^2, lip that of d phi' / dw, ...
        # of (phi'' v)^2 for all experts together, and of phi'' v ||patch||, d phi' / dw v, d phi' / ds v
        self.jumps = [_Jumps(self.bank * radius), *(_Jumps(self.expert * radius[:, None]) for _ in range(3))]

    def add(self, largest_gains: bool, b: slice, u: Tensor, v: Tensor, x_energy: Tensor, q_energy: Tensor) -> None:
        """Take in the responses of a tile of the images b, or, at first, only their largest gains at the jumps."""
        potential, w, s = self.potential, self.f.weights, self.f.smoothings
        r = self.pixel[:, None, None] * self.radius[b, None, None, None]
        t, v = u.abs(), v.abs()
        reached = [(kink, (t - kink.place).abs()) for kink in potential.kinks(w, s)]
        for kink, distance in reached:
            near = distance <= r
            jumped = [jump * v for jump in kink.jumps]
            gains = jumped[0].square(), jumped[0] * x_energy.sqrt(), *jumped[1:]
            for jumps, gain in zip(self.jumps, gains, strict=True):
                jumps.note(b, gain * near) if largest_gains else jumps.add(b, gain, distance, near, len(reached))
        if largest_gains:
            return
        bounds = potential.variation((t - r).clamp(min=0), t + r, w, s)
        lipschitz = [constant * v for constant in bounds.lipschitz]
        self.curvature[b] = torch.maximum(self.curvature[b], bounds.curvature.amax((2, 3)))
        self.trace[b] += (bounds.curvature * x_energy).sum((2, 3))
        self.influence[b] += (w * potential.influence(u, w, s)).square().sum((2, 3))
        self.product[b] += (potential.curvature(u, w, s) * v).square().sum((2, 3))
        self.steepest[b] = torch.maximum(self.steepest[b], lipschitz[0].amax((1, 2, 3)))
        self.spread[b] += (lipschitz[0] * r).square().sum((1, 2, 3))
        self.moved_by_x[b] += (lipschitz[0].square() * x_energy).sum((2, 3))
        self.moved_by_q[b] += (bounds.curvature.square() * q_energy).sum((2, 3))
        for i, derivative in enumerate(potential.derivatives_by_parameters, 1):
            largest = derivative(u, w, s).abs() + bounds.lipschitz[i] * r
            for kink, distance in reached if i <= 2 else ():  # derivatives by the shape do not jump
                largest = largest + kink.jumps[i] * (distance <= r)
            self.parameters[i - 1][b] += largest.square().sum((2, 3))
            self.moved_parameters[i - 1][b] += lipschitz[i].square().sum((2, 3))

    def bounds(self, scales: tuple[Tensor, ...]) -> Sensitivity:
        f, r = self.f, self.radius
        patches, step = self.patches * r[:, None], self.expert * r[:, None]  # changes of patches, of u_k
        change = torch.minimum(self.steepest * self.bank * r, self.spread.sqrt()) + self.jumps[0].total().sqrt()
        by_filters, *by_parameters = scales
        jacobian = self._jacobian(by_filters, by_parameters, patches)

        filters = patches * self.product.sqrt() + (self.moved_by_x.sqrt() + self.moved_by_q.sqrt()) * step
        filters = filters + self.jumps[1].total()
        parts = [by_filters * filters, by_filters.max() * patches * change[:, None]]
        jumps = [j.total() for j in self.jumps[2:]] + [0.0] * (len(by_parameters) - 2)  # none of those by the shape
        for scale, total, jump in zip(by_parameters, self.moved_parameters, jumps, strict=True):
            parts.append(scale * (total.sqrt() * step + jump))
        jacobian_product = torch.stack([part.norm(dim=1) for part in parts]).norm(dim=0)
        return Sensitivity(f.scale * jacobian, f.scale * self.bank * change, f.scale * jacobian_product)

    def _jacobian(self, by_filters: Tensor, by_parameters: list[Tensor], patches: Tensor) -> Tensor:  # -> (B,)
        """Bound ||J(x')|| over the ball.

        J(x')^T q by filters is the patches' phi'' C q + q's patches phi'. The first is at most the root of
        <q, sum_k (scale trace)_k C_k^T phi'' C_k q>.
        """
        f = self.f
        traces = by_filters * (self.trace.sqrt() + patches * self.curvature.sqrt())
        stiffness = traces.square() * self.curvature
        first = torch.stack([spectral_bound(f.filters, row, f.boundary) for row in stiffness]).sqrt()
        influence = self.influence.sqrt() + self.curvature * self.expert * self.radius[:, None]
        second = self.patches * (by_filters * influence).norm(dim=1)
        others = [
            (scale * self.expert * total.sqrt()).norm(dim=1)
            for scale, total in zip(by_parameters, self.parameters, strict=True)
        ]
        return torch.stack([first + second, *others]).norm(dim=0)


def _tiles(f: FieldOfExpertsFunctional, x: Tensor, q: Tensor) -> Iterator[tuple]:
    """Yield tile by tile the images, their responses u and v, and the energies of the patches of x and q."""
    size = f.filters.shape[-1]
    x, q = (pad(t, size, f.boundary) for t in (x, q))
    for tile in tiles(x.shape, f.filters):
        u, v = analysis(x[tile], f.filters), analysis(q[tile], f.filters)
        yield tile[0], u, v, _patch_energy(x[tile], size), _patch_energy(q[tile], size)


class _Jumps:
    """The bound min over lambda of lambda B^2 + sum_i max(0, g_i - lambda d_i^2), summed tile by tile.

    largest is max_i g_i; it and budget, which is B, are of shape (B,) or (B, K).
    """

    def __init__(self, budget: Tensor) -> None:
        self.largest, self.budget = torch.zeros_like(budget), budget
        self.sums = budget.new_zeros(*budget.shape, len(MULTIPLIERS))

    @property
    def lambdas(self) -> Tensor:  # (..., len(MULTIPLIERS))
        smallest = self.largest / self.budget.square().clamp(min=torch.finfo(self.budget.dtype).tiny)
        return smallest.unsqueeze(-1) * MULTIPLIERS.to(smallest)

    def note(self, b: slice, gain: Tensor) -> None:
        """Take in how large the gains (B, K, H', W') of the images b are."""
        self.largest[b] = torch.maximum(self.largest[b], gain.amax((2, 3) if self.largest.ndim == 2 else (1, 2, 3)))

    def add(self, b: slice, gain: Tensor, distance: Tensor, near: Tensor, kinks: int) -> None:
        """Add the gains of the responses near a kink to the sums.

        One response may pass several kinks, but its way is counted once: each kink gets its share of lambda.
        """
        image, expert, row, column = near.nonzero(as_tuple=True)
        gain, squared = gain[image, expert, row, column], distance[image, expert, row, column].square() / kinks
        place = image * near.shape[1] + expert if self.largest.ndim == 2 else image
        lambdas, sums = self.lambdas[b].flatten(0, -2), self.sums[b].flatten(0, -2)
        left = (gain.unsqueeze(1) - lambdas[place] * squared.unsqueeze(1)).clamp(min=0)
        self.sums[b] = sums.index_add(0, place, left).view_as(self.sums[b])

    def total(self) -> Tensor:
        """Return the least of the bounds."""
        return (self.lambdas * self.budget.square().unsqueeze(-1) + self.sums).amin(-1)


def _patch_energy(x: Tensor, size: int) -> Tensor:  # (B, C, H, W) -> (B, 1, H - s + 1, W - s + 1)
    """Return sum_c ||patch - mean of the patch||^2, which is all that a zero-mean filter sees."""
    box = torch.ones(x.shape[1], 1, size, size, dtype=torch.float64, device=x.device)
    sums, squares = (F.conv2d(t, box, groups=x.shape[1]) for t in (x.double(), x.double().square()))
    return (squares - sums.square() / size**2).sum(1, keepdim=True).clamp(min=0).to(x.dtype)
