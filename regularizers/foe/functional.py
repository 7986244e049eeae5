"""Field of experts: R(x) = scale sum_k sum_i phi((c_k * x)_i; w_k, s_k)  (Roth and Black, IJCV 2009).

Where nothing is to be differentiated, compiled kernels compute it (`regularizers.foe.compiled`). Torch alone computes
tile by tile.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from regularizers.foe.compiled.choice import CompiledKernel, fastest
from regularizers.foe.filter_bank import (
    Tile,
    analysis,
    autocorrelation,
    filter_gradient,
    pad,
    pad_adjoint,
    spectral_bound,
    synthesis,
    tiles,
)
from regularizers.foe.groups import GroupPotential
from regularizers.foe.potential import Potential
from regularizers.functional import RegularizerError


@dataclass(frozen=True)
class FieldOfExpertsFunctional:
    """R for fixed filters (K, C, s, s), weights (K, 1, 1), smoothings (K, 1, 1) and, where the potential has one, its
    shape (K, J). With u = C x, D = diag(phi''(u)):  dR/dx = C^T phi'(u),  d2R/dx2 = C^T D C,
    d<dR/dx, q>/dc = x (x) (phi''(u) Cq) + q (x) phi'(u), (x) the correlation of `filter_gradient`.

    Of a potential of d responses, phi is a function of each group of d that follow each other, and D has blocks.
    Weights, smoothings, shape and contrasts have an entry for each group instead of each filter.

    With contrasts g > 0 and masks 0 < m <= 1 (`regularizers.foe.adaptive`), (B, K, H', W') as the responses of a batch,
    m phi(g u; w, s) / g^2 stands in the place of phi(u; w, s), and the derivatives by u are m phi'(g u) / g and m
    phi''(g u). Without them g = 1, m = 1.
    """

    filters: Tensor
    weights: Tensor
    smoothings: Tensor
    potential: Potential | GroupPotential
    boundary: str
    scale: float
    contrasts: Tensor | None = None
    masks: Tensor | None = None

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Filters, weights, smoothings and, where the potential has one, its shape."""
        shape = () if self.potential.shape is None else (self.potential.shape,)
        return self.filters, self.weights, self.smoothings, *shape

    @property
    def natural(self) -> tuple[Tensor, ...]:
        return *self.parameters, *(t for t in (self.contrasts, self.masks) if t is not None)

    @property
    def operations(self) -> float:
        """Return (C + K) s^3 C^(1/2): the rounding of a gradient is proportional to it (app/lower/certificate.py)."""
        experts, channels, size = self.filters.shape[:3]
        return (channels + experts) * size**3 * channels**0.5

    def of_experts(self, of_groups: Tensor) -> Tensor:  # (..., K / d, H', W') -> (..., K, H', W')
        """Return for every expert what its group has."""
        return of_groups if self.potential.size == 1 else of_groups.repeat_interleave(self.potential.size, -3)

    def take(self, images: Tensor) -> "FieldOfExpertsFunctional":
        parts = {"contrasts": self.contrasts, "masks": self.masks}
        return replace(self, **{name: t[images] for name, t in parts.items() if t is not None})

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        padded, w, s = self._pad(x), self.weights, self.smoothings
        sums = torch.zeros_like(x[:, 0, 0, 0])
        for tile in tiles(padded.shape, self.filters):
            values = self._reduced(self.potential.value(self._stretched(padded, tile), w, s), tile, 2)
            sums = sums.index_add(0, torch.arange(len(x), device=x.device)[tile[0]], values.sum((1, 2, 3)))
        return self.scale * sums

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        padded = self._pad(x)
        compiled = self._compiled(padded)
        if compiled:
            return self._pad_adjoint(compiled.gradient(self, padded))
        weights = self.of_experts(self.weights).unsqueeze(-1)
        g, scaled = torch.zeros_like(padded), (self.scale * weights) * self.filters
        for tile in tiles(padded.shape, scaled):
            z = self.potential.influence(self._stretched(padded, tile), self.weights, self.smoothings)
            g[tile] += synthesis(self._shrunk(z, tile), scaled)
        return self._pad_adjoint(g)

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        padded = self._pad(x)
        compiled = self._compiled(padded)
        if compiled:
            fused = compiled.hessian(self, padded)
            return lambda v: self._pad_adjoint(fused(self._pad(v)))
        scaled = self.scale * self.filters
        parts = [
            (tile, self.potential.hessian(self._stretched(padded, tile), self.weights, self.smoothings))
            for tile in tiles(padded.shape, self.filters)
        ]

        def product(v: Tensor) -> Tensor:
            v = self._pad(v)
            h = torch.zeros_like(v)
            for tile, hessian in parts:
                h[tile] += synthesis(self._masked(hessian(analysis(v[tile], self.filters)), tile), scaled)
            return self._pad_adjoint(h)

        return product

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (B, C, H, W)
        """Return the stencil of sum_k mean(d_k) C_k^T C_k and the diagonal of sum_k C_k^T d_k C_k, with
        d_k = |phi''(C_k x)|, of groups the diagonal, times m."""
        padded, size = self._pad(x), self.filters.shape[-1]
        compiled = self._compiled(padded)
        if compiled:
            sums, diagonal = compiled.summary(self, padded)
        else:
            diagonal, sums = torch.zeros_like(padded), x.new_zeros(len(x), len(self.filters))
            for tile in tiles(padded.shape, self.filters):
                d = self.potential.curvature(self._stretched(padded, tile), self.weights, self.smoothings).abs()
                d = self._masked(d, tile)
                diagonal[tile] += synthesis(d, self.scale * self.filters.square())
                sums[tile[0]] += d.sum((2, 3))
        means = self.scale * sums / ((padded.shape[2] - size + 1) * (padded.shape[3] - size + 1))
        stencil = torch.einsum("bk,kcdij->bcdij", means, self._autocorrelation)
        return stencil, self._pad_adjoint(diagonal)

    @cached_property
    def _autocorrelation(self) -> Tensor:
        return autocorrelation(self.filters)

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        size, w, s = self.filters.shape[-1], self.weights, self.smoothings
        x, q = self._pad(x), self._pad(q)
        compiled = self._compiled(x)
        if compiled:
            return (*compiled.mixed(self, x, q), *self._mixed_by_planes(x, q))
        by_filters, by_parameters = torch.zeros_like(self.filters), self._zeros()
        for tile in tiles(x.shape, self.filters):
            t, v = self._stretched(x, tile), analysis(q[tile], self.filters)
            influence = self._shrunk(self.potential.influence(t, w, s), tile)
            bent = self._masked(self.potential.hessian(t, w, s)(v), tile)
            by_filters.add_(filter_gradient(x[tile], bent, size))
            by_filters.add_(self.of_experts(w).unsqueeze(-1) * filter_gradient(q[tile], influence, size))
            for i, along in enumerate(self.potential.mixed(t, self._shrunk(v, tile), w, s)):
                by_parameters[:, i] += along.sum((0, 2, 3))
        return (*self._in_natural(by_filters, by_parameters), *self._mixed_by_planes(x, q))

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W)
        """Return, with u = C x, dR/dc = x (x) phi'(u) and the sums of d phi / dw, d phi / ds, ..."""
        size, w, s = self.filters.shape[-1], self.weights, self.smoothings
        x = self._pad(x)
        by_filters, by_parameters = torch.zeros_like(self.filters), self._zeros()
        for tile in tiles(x.shape, self.filters):
            t = self._stretched(x, tile)
            influence = self._shrunk(self.potential.influence(t, w, s), tile)
            by_filters.add_(self.of_experts(w).unsqueeze(-1) * filter_gradient(x[tile], influence, size))
            for i, slope in enumerate(self.potential.slopes(t, w, s)):
                by_parameters[:, i] += self._reduced(slope, tile, 2).sum((0, 2, 3))

        def by_contrasts(tile: Tile) -> Tensor:
            t = self._stretched(x, tile)
            slope = self._group_sums(t * self.of_experts(w) * self.potential.influence(t, w, s))
            return self._reduced(slope - 2 * self.potential.value(t, w, s), tile, 3)

        def by_masks(tile: Tile) -> Tensor:
            return self._over_contrasts(self.potential.value(self._stretched(x, tile), w, s), tile, 2)

        return (*self._in_natural(by_filters, by_parameters), *self._by_planes(x, by_contrasts, by_masks))

    def _in_natural(self, by_filters: Tensor, by_parameters: Tensor) -> tuple[Tensor, ...]:
        """Return derivatives by filters (K, C, s, s) and by parameters of the potential (K, 2 + J), times the scale, in
        the shapes of `parameters`."""
        by_weights, by_smoothings, by_shape = by_parameters.tensor_split((1, 2), 1)
        every = by_filters, by_weights.unsqueeze(-1), by_smoothings.unsqueeze(-1), by_shape
        return tuple(self.scale * gradient for gradient in every[: len(self.parameters)])

    def _mixed_by_planes(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        """Return the derivatives by g and by m:  d/dg (m phi'(g u) / g) = m (t phi''(t) - phi'(t)) / g^2,  t = g u, and
        d/dm (m phi'(g u) / g) = phi'(t) / g."""
        w, s = self.weights, self.smoothings

        def by_contrasts(tile: Tile) -> Tensor:
            t, v = self._stretched(x, tile), analysis(q[tile], self.filters)
            bend = self.potential.hessian(t, w, s)(t) - self.of_experts(w) * self.potential.influence(t, w, s)
            return self._reduced(self._group_sums(bend * v), tile, 2)

        def by_masks(tile: Tile) -> Tensor:
            t, v = self._stretched(x, tile), analysis(q[tile], self.filters)
            slope = self._group_sums(self.of_experts(w) * self.potential.influence(t, w, s) * v)
            return self._over_contrasts(slope, tile, 1)

        return self._by_planes(x, by_contrasts, by_masks)

    def _by_planes(self, padded: Tensor, *derivatives: Callable[[Tile], Tensor]) -> tuple[Tensor, ...]:
        """Return the derivatives by contrasts and masks, tile by tile, of those that there are."""
        every = []
        for plane, derivative in zip((self.contrasts, self.masks), derivatives, strict=True):
            if plane is not None:
                every.append(torch.empty_like(plane))
                for tile in tiles(padded.shape, self.filters):
                    every[-1][self._responses(tile)] = self.scale * derivative(tile)
        return tuple(every)

    def _stretched(self, padded: Tensor, tile: Tile) -> Tensor:
        """Return what the potential is applied to, g u."""
        u = analysis(padded[tile], self.filters)
        return u if self.contrasts is None else u * self.of_experts(self.contrasts[self._responses(tile)])

    def _shrunk(self, values: Tensor, tile: Tile) -> Tensor:
        """Return values of experts times m / g."""
        values = self._masked(values, tile)
        return values if self.contrasts is None else values / self.of_experts(self.contrasts[self._responses(tile)])

    def _masked(self, values: Tensor, tile: Tile) -> Tensor:
        """Return values of experts times m."""
        return values if self.masks is None else values * self.of_experts(self.masks[self._responses(tile)])

    def _group_sums(self, of_experts: Tensor) -> Tensor:  # (B, K, H', W') -> (B, K / d, H', W')
        return of_experts if self.potential.size == 1 else of_experts.unflatten(1, (-1, self.potential.size)).sum(2)

    def _zeros(self) -> Tensor:
        """Return a row for each group with a column for each parameter of the potential."""
        shape = self.potential.shape
        return self.weights.new_zeros(len(self.weights), 2 if shape is None else 2 + shape.shape[1])

    def _reduced(self, values: Tensor, tile: Tile, power: int) -> Tensor:
        """Return values of groups times m / g^power."""
        values = values if self.masks is None else values * self.masks[self._responses(tile)]
        return self._over_contrasts(values, tile, power)

    def _over_contrasts(self, values: Tensor, tile: Tile, power: int) -> Tensor:
        """Return values of groups / g^power."""
        return values if self.contrasts is None else values / self.contrasts[self._responses(tile)] ** power

    def _responses(self, tile: Tile) -> Tile:
        """Return where the responses of a tile are among those of the batch."""
        images, every, rows = tile
        return images, every, slice(rows.start, rows.stop - self.filters.shape[-1] + 1)

    def _compiled(self, x: Tensor) -> CompiledKernel | None:
        """Return what computes faster than torch here, where nothing is to be differentiated; None without it."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.natural)):
            return None
        return fastest(x, self.filters.shape[-1], self.potential.name, self.potential.size)

    def _pad(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.filters.shape[1]:  # compiled kernels would read behind the end
            raise RegularizerError(f"filters are for images of {self.filters.shape[1]} channels, not {x.shape[1]}")
        return pad(x, self.filters.shape[-1], self.boundary)

    def _pad_adjoint(self, x: Tensor) -> Tensor:
        return pad_adjoint(x, self.filters.shape[-1], self.boundary)

    def curvature(self) -> tuple[float, float]:
        """Return rho = scale ||sum_k max -phi''_k C_k^T C_k||,  L = scale ||sum_k max phi''_k C_k^T C_k||."""
        largest = self.of_experts(self.potential.largest_curvature(self.weights, self.smoothings)).flatten()
        bound = self.scale * float(spectral_bound(self.filters, largest, self.boundary))
        weak = self.of_experts(self.potential.weak_convexity(self.weights, self.smoothings)).flatten()
        rho = float(spectral_bound(self.filters, weak, self.boundary)) if weak.any() else 0.0
        return self.scale * rho, bound
