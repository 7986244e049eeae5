"""Smoothed total variation: R(x) = sum_c w_c sum_i (sqrt(|grad x_c,i|^2 + s_c^2) - s_c)  (Rudin, Osher, Fatemi 1992).

grad takes forward differences, which are zero across the last row and column. Isotropic: |g|^2 = dx^2 + dy^2 under one
root. Anisotropic: each of the two differences has a root of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from regularizers.functional import Sensitivity
from regularizers.noise_levels import initial_at_nodes
from regularizers.regularizer import Regularizer, require_positive

NORM_SQUARED = 8  # >= ||D||^2


def differences(x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 2, C, H, W)
    """Return D x: forward differences along rows and columns, zero where the neighbour is missing."""
    g = x.new_zeros((x.shape[0], 2, *x.shape[1:]))
    g[:, 0, :, :-1] = x[:, :, 1:] - x[:, :, :-1]
    g[:, 1, :, :, :-1] = x[..., 1:] - x[..., :-1]
    return g


def differences_adjoint(g: Tensor, sign: int = -1) -> Tensor:  # (B, 2, C, H, W) -> (B, C, H, W)
    """Return D^T g, or |D|^T g, |D| the absolute values of the entries, with the sign 1."""
    x = torch.zeros_like(g[:, 0])
    down, right = g[:, 0, :, :-1], g[:, 1, :, :, :-1]
    x[:, :, 1:] += down
    x[:, :, :-1].add_(down, alpha=sign)
    x[..., 1:] += right
    x[..., :-1].add_(right, alpha=sign)
    return x


@dataclass(frozen=True)
class TotalVariationFunctional:
    """Total variation for fixed weights (C, 1, 1) and smoothings (C, 1, 1).

    With g = D x and r = sqrt(|g|^2 + s^2):  dR/dx = D^T (w g / r),  d2R/dx2 = D^T (w (1 / r - g g^T / r^3)) D.
    """

    weights: Tensor
    smoothings: Tensor
    isotropic: bool

    @property
    def natural(self) -> tuple[Tensor, ...]:
        return self.weights, self.smoothings

    def sum_under_root(self, g: Tensor) -> Tensor:  # (B, 2, C, H, W) -> (B, 1 or 2, C, H, W)
        """Sum over the differences that share a root: both of them (isotropic), or each alone."""
        return g.sum(1, keepdim=True) if self.isotropic else g

    def _inverse_root(self, g: Tensor) -> Tensor:  # 1 / r
        return (self.sum_under_root(g.square()) + self.smoothings.square()).rsqrt()

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        # (r^2 - s^2) / (r + s): the plain difference r - s cancels for |g| << s.
        squared = self.sum_under_root(differences(x).square())
        root = (squared + self.smoothings.square()).sqrt()
        return (self.weights * squared / (root + self.smoothings)).sum((1, 2, 3, 4))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        g = differences(x)
        return differences_adjoint(self.weights * g * self._inverse_root(g))

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        g = differences(x)
        scale = self._inverse_root(g)
        unit = g * scale
        scale = self.weights * scale

        def product(v: Tensor) -> Tensor:
            dv = differences(v)
            return differences_adjoint(scale * (dv - unit * self.sum_under_root(unit * dv)))

        return product

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (B, C, H, W)
        """Return the stencil of D^T mean(d) D and the diagonal of D^T d D, d = w (1 / r - g^2 / r^3)."""
        g = differences(x)
        scale = self._inverse_root(g)
        d = self.weights * (scale - g.square() * scale**3)
        means = d.mean((3, 4))  # (B, 2, C)
        stencil = x.new_zeros(*x.shape[:2], 3, 3)
        stencil[:, :, 1, 1] = 2 * means.sum(1)
        stencil[:, :, 0, 1] = stencil[:, :, 2, 1] = -means[:, 0]
        stencil[:, :, 1, 0] = stencil[:, :, 1, 2] = -means[:, 1]
        diagonal = differences_adjoint(d, sign=1)
        return torch.diag_embed(stencil.movedim(1, -1)).movedim((-2, -1), (1, 2)), diagonal

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        g = differences(x)
        scale = self._inverse_root(g)
        along = g * differences(q)
        by_weights = (along * scale).sum((0, 1, 3, 4))
        by_smoothings = -(self.weights * self.smoothings * along * scale**3).sum((0, 1, 3, 4))
        return by_weights.view_as(self.weights), by_smoothings.view_as(self.smoothings)

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W)
        squared = self.sum_under_root(differences(x).square())
        root = (squared + self.smoothings.square()).sqrt()
        by_weights = (squared / (root + self.smoothings)).sum((0, 1, 3, 4))
        by_smoothings = -(self.weights * squared / (root * (root + self.smoothings))).sum((0, 1, 3, 4))
        return by_weights.view_as(self.weights), by_smoothings.view_as(self.smoothings)

    def take(self, images: Tensor) -> Self:
        return self

    def curvature(self) -> tuple[float, float]:
        """Return rho = 0 and L = max_c w_c / s_c ||D||^2."""
        return 0.0, NORM_SQUARED * float((self.weights / self.smoothings).max())


class TotalVariation(Regularizer):
    """Total variation with a learned weight and smoothing per channel.

    channels: 1 or 3.  weight, smoothing: the initial ones, smoothing in units of the pixels; with `noise_nodes` > 0
    those at the noise level 25/255, and both are proportional to the level.
    """

    has_sensitivity: bool = True

    def __init__(
        self, channels: int = 1, isotropic: bool = True, *,
        weight: float = 0.01, smoothing: float = 0.01, noise_nodes: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(noise_nodes)
        require_positive(weight=weight, smoothing=smoothing)
        self.isotropic = isotropic
        self.log_weights = nn.Parameter(initial_at_nodes(torch.full((channels, 1, 1), weight).log(), noise_nodes))
        self.log_smoothings = nn.Parameter(initial_at_nodes(torch.full((channels, 1, 1), smoothing).log(), noise_nodes))

    def functional(self) -> TotalVariationFunctional:
        weights, smoothings = self._present(self.log_weights).exp(), self._present(self.log_smoothings).exp()
        return TotalVariationFunctional(weights, smoothings, self.isotropic)

    @torch.no_grad()
    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:  # 2 x (B, C, H, W), (B,)
        """Bound the changes of J and the Hessian by Lipschitz constants.

        With r = (|g|^2 + s^2)^(1/2) at the smallest |g| within the radius, the constants are 1 / r of g / r, 2 / r^3 of
        g / r^3, and min(3 / 2 (5 / 4)^(-5/2) / s^2, 2 / 3^(1/2) / r^2) of the Hessian of r.
        """
        functional = self.functional()
        w, s = functional.weights, functional.smoothings
        g, dq = differences(x), differences(q)
        moved = (NORM_SQUARED**0.5 * radius)[:, None, None, None, None]  # >= ||D (x' - x)||
        size = functional.sum_under_root(g.square()).sqrt()
        length = functional.sum_under_root(dq.square()).sqrt()
        nearest = ((size - moved).clamp(min=0).square() + s.square()).sqrt()
        hessian = w * torch.minimum(1.5 * 1.25**-2.5 / s.square(), 2 / 3**0.5 / nearest.square())
        root = (size.square() + s.square()).sqrt()

        def norm(t: Tensor) -> Tensor:  # (B, 1 or 2, C, H, W) -> (B, C)
            return t.square().sum((1, 3, 4)).sqrt()

        step = moved[:, 0, 0, 0]  # (B, 1)
        by_w, by_s = w.flatten(), (w * s.square()).flatten()  # theta = (log w, log s)
        slopes = by_w * (norm(size / root) + step / s.flatten())
        bends = by_s * (norm(size / root**3) + 2 * step / s.flatten() ** 3)
        changes = by_w * norm(length / nearest) * step, by_s * norm(2 * length / nearest**3) * step
        return Sensitivity(
            NORM_SQUARED**0.5 * torch.cat([slopes, bends], 1).norm(dim=1),
            NORM_SQUARED**0.5 * (hessian * length).amax((1, 2, 3, 4)) * step[:, 0],
            torch.cat(changes, 1).norm(dim=1),
        )
