"""Smoothed total variation: R(x) = sum_c w_c sum_i (sqrt(|grad x_c,i|^2 + s_c^2) - s_c)  (Rudin, Osher, Fatemi 1992).

Forward differences, zero across the last row and column. Isotropic: |g|^2 = dx^2 + dy^2. Anisotropic: the two
differences are penalized one by one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from regularizers.functional import Sensitivity
from regularizers.noise_levels import spread
from regularizers.regularizer import Regularizer

NORM_SQUARED = 8  # >= ||D||^2


def differences(x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 2, C, H, W)
    """Forward differences along rows and columns, zero where the neighbour is missing."""
    g = x.new_zeros((x.shape[0], 2, *x.shape[1:]))
    g[:, 0, :, :-1] = x[:, :, 1:] - x[:, :, :-1]
    g[:, 1, :, :, :-1] = x[..., 1:] - x[..., :-1]
    return g


def differences_adjoint(g: Tensor) -> Tensor:  # (B, 2, C, H, W) -> (B, C, H, W)
    x = torch.zeros_like(g[:, 0])
    down, right = g[:, 0, :, :-1], g[:, 1, :, :, :-1]
    x[:, :, 1:] += down
    x[:, :, :-1] -= down
    x[..., 1:] += right
    x[..., :-1] -= right
    return x


@dataclass(frozen=True)
class TotalVariationFunctional:
    """TV for given weights (C, 1, 1) and smoothings (C, 1, 1).

    With g = D x and r = sqrt(|g|^2 + s^2):  dR/dx = D^T (w g / r),  d2R/dx2 = D^T (w (1 / r - g g^T / r^3)) D.
    """

    weights: Tensor
    smoothings: Tensor
    isotropic: bool

    @property
    def natural(self) -> tuple[Tensor, ...]:
        return self.weights, self.smoothings

    def _sum(self, g: Tensor) -> Tensor:
        """Over the differences that share a root: both (isotropic) or each alone."""
        return g.sum(1, keepdim=True) if self.isotropic else g

    def _inverse_root(self, g: Tensor) -> Tensor:  # 1 / r
        return (self._sum(g.square()) + self.smoothings.square()).rsqrt()

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        # (r^2 - s^2) / (r + s): the plain difference r - s cancels for |g| << s.
        squared = self._sum(differences(x).square())
        root = (squared + self.smoothings.square()).sqrt()
        return (self.weights * squared / (root + self.smoothings)).sum((1, 2, 3, 4))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        g = differences(x)
        return differences_adjoint(self.weights * g * self._inverse_root(g))

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        g = differences(x)
        scale = self._inverse_root(g)
        unit = g * scale
        scale = self.weights * scale

        def product(v: Tensor) -> Tensor:
            dv = differences(v)
            return differences_adjoint(scale * (dv - unit * self._sum(unit * dv)))

        return product

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stencil of D^T mean(d) D and the diagonal of D^T d D, d = w (1 / r - g^2 / r^3)."""
        g = differences(x)
        scale = self._inverse_root(g)
        d = self.weights * (scale - g.square() * scale**3)
        means = d.mean((3, 4))  # (B, 2, C)
        stencil = x.new_zeros(*x.shape[:2], 3, 3)
        stencil[:, :, 1, 1] = 2 * means.sum(1)
        stencil[:, :, 0, 1] = stencil[:, :, 2, 1] = -means[:, 0]
        stencil[:, :, 1, 0] = stencil[:, :, 1, 2] = -means[:, 1]
        diagonal = torch.zeros_like(x)
        down, right = d[:, 0, :, :-1], d[:, 1, :, :, :-1]
        diagonal[:, :, 1:] += down
        diagonal[:, :, :-1] += down
        diagonal[..., 1:] += right
        diagonal[..., :-1] += right
        return torch.diag_embed(stencil.movedim(1, -1)).movedim((-2, -1), (1, 2)), diagonal

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        g = differences(x)
        scale = self._inverse_root(g)
        along = g * differences(q)
        by_weights = (along * scale).sum((0, 1, 3, 4))
        by_smoothings = -(self.weights * self.smoothings * along * scale**3).sum((0, 1, 3, 4))
        return by_weights.view_as(self.weights), by_smoothings.view_as(self.smoothings)

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:
        squared = self._sum(differences(x).square())
        root = (squared + self.smoothings.square()).sqrt()
        by_weights = (squared / (root + self.smoothings)).sum((0, 1, 3, 4))
        by_smoothings = -(self.weights * squared / (root * (root + self.smoothings))).sum((0, 1, 3, 4))
        return by_weights.view_as(self.weights), by_smoothings.view_as(self.smoothings)

    def take(self, images: Tensor) -> Self:
        return self

    def curvature(self) -> tuple[float, float]:
        """rho = 0 and L = max_c w_c / s_c ||D||^2."""
        return 0.0, NORM_SQUARED * float((self.weights / self.smoothings).max())


class TotalVariation(Regularizer):
    """Learned weight and smoothing per channel. channels: 1 or 3. Of `noise_nodes` > 0, the initial ones are those at
    25/255, both proportional to the noise level."""

    def __init__(
        self,
        channels: int,
        isotropic: bool = True,
        weight: float = 0.01,
        smoothing: float = 0.01,
        noise_nodes: int = 0,
    ) -> None:
        super().__init__(noise_nodes)
        self.isotropic = isotropic
        self.log_weights = nn.Parameter(spread(torch.full((channels, 1, 1), weight).log(), noise_nodes))
        self.log_smoothings = nn.Parameter(spread(torch.full((channels, 1, 1), smoothing).log(), noise_nodes))

    def functional(self) -> TotalVariationFunctional:
        weights, smoothings = self._present(self.log_weights).exp(), self._present(self.log_smoothings).exp()
        return TotalVariationFunctional(weights, smoothings, self.isotropic)

    @torch.no_grad()
    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:
        """Lipschitz constants, with rho = (|g|^2 + s^2)^(1/2) at the smallest |g| within reach: 1 / rho of g / rho,
        2 / rho^3 of g / rho^3, and min(3 / 2 (5 / 4)^(-5/2) / s^2, 2 / 3^(1/2) / rho^2) of the Hessian of rho."""
        functional = self.functional()
        w, s = functional.weights, functional.smoothings
        g, dq = differences(x), differences(q)
        moved = (NORM_SQUARED**0.5 * radius)[:, None, None, None, None]  # >= ||D (x' - x)||
        size = functional._sum(g.square()).sqrt()
        length = functional._sum(dq.square()).sqrt()
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
