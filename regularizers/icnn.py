"""Input-convex network of two convolutional layers (Amos, Xu, Kolter: ICML 2017, arXiv 1609.07152):

    u_1 = W_1 x + b_1,   z_1 = phi(u_1),    u_2 = A z_1 + W_2 x + b_2,   z_2 = phi(u_2),
    R(x) = <w_1, z_1> + <w_2, z_2> - the same at x = 0,    phi(u; s) = (u + (u^2 + s^2)^(1/2)) / 2,

with A, w_1, w_2 >= 0 and phi convex and nondecreasing, so that R is convex. All filters are circular and W_1, W_2 have
mean zero: constants have the responses of 0, and R is 0 there, its minimum. 0 <= phi' <= 1 and 0 <= phi'' <= 1 / (2 s).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regularizers.autograd import derivatives_at
from regularizers.foe.filter_bank import analysis, autocorrelation, pad, pad_adjoint, spectral_bound, synthesis
from regularizers.foe.initial_filters import dct_filters
from regularizers.regularizer import Regularizer, require_positive

HIDDEN = 3  # side of the filters A, in pixels


def _root(u: Tensor, s: Tensor) -> Tensor:  # (u^2 + s^2)^(1/2)
    return (u.square() + s.square()).sqrt()


def phi(u: Tensor, s: Tensor) -> Tensor:  # (B, K, H, W), (K, 1, 1) -> (B, K, H, W)
    """Return phi(u; s)."""
    return (u + _root(u, s)) / 2


def slope(u: Tensor, s: Tensor) -> Tensor:  # (B, K, H, W), (K, 1, 1) -> (B, K, H, W)
    """Return phi'(u; s)."""
    return (1 + u / _root(u, s)) / 2


def bend(u: Tensor, s: Tensor) -> Tensor:  # (B, K, H, W), (K, 1, 1) -> (B, K, H, W)
    """Return phi''(u; s)."""
    return s.square() / (2 * _root(u, s).pow(3))


def filtered(x: Tensor, filters: Tensor) -> Tensor:  # (B, C, H, W), (K, C, s, s) -> (B, K, H, W)
    """Return the circular responses W x."""
    return analysis(pad(x, filters.shape[-1], "circular"), filters)


def filtered_adjoint(u: Tensor, filters: Tensor) -> Tensor:  # (B, K, H, W), (K, C, s, s) -> (B, C, H, W)
    """Return W^T u."""
    return pad_adjoint(synthesis(u, filters), filters.shape[-1], "circular")


@dataclass(frozen=True)
class InputConvexFunctional:
    """R for fixed W_1 = first, W_2 = second (K, C, s, s), A = hidden (K, K, 3, 3), and w, s, b (2, K, 1, 1) by layer.

    dR/dx = W_1^T p_1 + W_2^T p_2 with p_1 = a phi'(u_1), and

        d2R/dx2 = W_1^T diag(a phi''(u_1)) W_1 + J^T diag(w_2 phi''(u_2)) J,   J = A diag(phi'(u_1)) W_1 + W_2.
    """

    first: Tensor
    second: Tensor
    hidden: Tensor
    weights: Tensor
    smoothings: Tensor
    shifts: Tensor

    @property
    def natural(self) -> tuple[Tensor, ...]:
        return self.first, self.second, self.hidden, self.weights, self.smoothings, self.shifts

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        """Return R as a sum of differences from the responses of 0, which are most of z_1 and z_2 in a smooth image."""
        nothing = torch.zeros_like(x[:1])
        layers = zip(self.weights, self._layers(x), self._layers(nothing), self.smoothings, strict=True)
        return sum(((w * (phi(u, s) - phi(rest, s))).sum((1, 2, 3)) for w, u, rest, s in layers), x.new_zeros(len(x)))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        u, a, p = self._pass(x)
        inner = filtered_adjoint(a * slope(u[0], self.smoothings[0]), self.first)
        return inner + filtered_adjoint(p, self.second)

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        slopes, bends = self._second_order(x)

        def product(v: Tensor) -> Tensor:
            moved = filtered(v, self.first)
            outer = bends[1] * (filtered(slopes * moved, self.hidden) + filtered(v, self.second))
            inner = slopes * filtered_adjoint(outer, self.hidden) + bends[0] * moved
            return filtered_adjoint(inner, self.first) + filtered_adjoint(outer, self.second)

        return product

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        """Return d/d natural <dR/dx, q> by autograd: it is needed once per hypergradient, and closed forms for six
        kinds of parameters would be long."""
        return derivatives_at(self.natural, lambda leaves: (InputConvexFunctional(*leaves).gradient(x) * q).sum())

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W)
        return derivatives_at(self.natural, lambda leaves: InputConvexFunctional(*leaves).value(x).sum())

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (B, C, H, W)
        """Return that of the Hessian, with phi'(u_1) in J replaced by its mean over the image: J is then a bank G."""
        slopes, bends = self._second_order(x)
        stencils, diagonals = [], []
        for inner, d_1, d_2 in zip(slopes.mean((2, 3)), *(b.split(1) for b in bends), strict=True):
            bank = self._composed(inner)
            of_first = torch.einsum("k,kcdij->cdij", d_1.mean((0, 2, 3)), autocorrelation(self.first))
            of_bank = torch.einsum("k,kcdij->cdij", d_2.mean((0, 2, 3)), autocorrelation(bank))
            stencils.append(of_bank + F.pad(of_first, (HIDDEN - 1,) * 4))
            diagonals.append(filtered_adjoint(d_1, self.first.square()) + filtered_adjoint(d_2, bank.square()))
        return torch.stack(stencils), torch.cat(diagonals)

    def take(self, images: Tensor) -> Self:
        return self

    def curvature(self) -> tuple[float, float]:
        """Return rho = 0, and with p_2 <= w_2 (A >= 0), a <= a' = w_1 + A^T w_2, phi' <= 1 and phi'' <= 1 / (2 s),

            L = ||W_1^T diag(a' / (2 s_1)) W_1|| + (||D W_2|| + ||D A|| ||W_1||)^2,   D^2 = diag(w_2 / (2 s_2)).

        A filter >= 0 has its largest response at frequency 0, |A^(w)| <= A^(0) entry by entry, and the norm of a
        matrix is at most that of larger entries >= 0: ||D A|| is the norm of a K x K matrix of sums.
        """
        (w_1, w_2), (s_1, s_2) = self.weights.flatten(1), self.smoothings.flatten(1)
        sums, ones = self.hidden.sum((2, 3)), torch.ones_like(w_1)
        outer = w_2 / (2 * s_2)
        inner = spectral_bound(self.first, (w_1 + sums.T @ w_2) / (2 * s_1), "circular")
        # An SVD fails on what is not finite; the other terms then say that L is not.
        through = torch.linalg.matrix_norm((outer.sqrt()[:, None] * sums).nan_to_num(), 2)
        through = through * spectral_bound(self.first, ones, "circular").sqrt()
        skipped = spectral_bound(self.second, outer, "circular").sqrt()
        return 0.0, float(inner + (skipped + through).square())

    def _layers(self, x: Tensor) -> tuple[Tensor, Tensor]:  # u_1, u_2
        inner = filtered(x, self.first) + self.shifts[0]
        z = phi(inner, self.smoothings[0])
        return inner, filtered(z, self.hidden) + filtered(x, self.second) + self.shifts[1]

    def _pass(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Return u and the derivatives a = w_1 + A^T p_2, p_2 = w_2 phi'(u_2) of R by z at one x, all (B, K, H, W)."""
        u = self._layers(x)
        p = self.weights[1] * slope(u[1], self.smoothings[1])
        return u, self.weights[0] + filtered_adjoint(p, self.hidden), p

    def _second_order(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return phi'(u_1), and the factors a phi''(u_1), w_2 phi''(u_2) of the second derivatives of both layers."""
        (u, a, _), s = self._pass(x), self.smoothings
        return slope(u[0], s[0]), (a * bend(u[0], s[0]), self.weights[1] * bend(u[1], s[1]))

    def _composed(self, slopes: Tensor) -> Tensor:  # (K,) -> (K, C, s + 2, s + 2)
        """Return the bank G = A diag(slopes) W_1 + W_2."""
        scaled = (slopes[:, None, None, None] * self.first).transpose(0, 1)
        through = F.conv_transpose2d(scaled, self.hidden.transpose(0, 1)).transpose(0, 1)
        return through + F.pad(self.second, (HIDDEN // 2,) * 4)


class InputConvexNetwork(Regularizer):
    """Network of learned filters of mean zero (W_1 with unit norm), weights, smoothings, and biases b = s times shifts.

    It starts as a field of experts with charbonnier potentials of half the weight, since u_1 sums up to 0 over the
    image and phi(u) to half of (u^2 + s^2)^(1/2), with a second layer whose weights are the share SHARE of it.

    channels: 1 or 3.  filters: K, of each layer.  filter_size: s, odd, in pixels.  weight, smoothing: initial w_1 and
    s. Raises RegularizerError for an even filter size.
    """

    SHARE = 0.1

    def __init__(
        self, channels: int = 1, filters: int = 32, filter_size: int = 7, *,
        weight: float = 0.01, smoothing: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        require_positive(weight=weight, smoothing=smoothing)
        self.raw_filters = nn.Parameter(dct_filters(channels, filters, filter_size))
        self.raw_skips = nn.Parameter(dct_filters(channels, filters, filter_size))
        self.log_hidden = nn.Parameter(torch.full((filters, filters, HIDDEN, HIDDEN), 1 / (filters * HIDDEN**2)).log())
        weights = torch.tensor([weight, self.SHARE * weight]).log()
        self.log_weights = nn.Parameter(weights[:, None, None, None].repeat(1, filters, 1, 1))
        self.log_smoothings = nn.Parameter(torch.full((2, filters, 1, 1), smoothing).log())
        self.shifts = nn.Parameter(torch.zeros(2, filters, 1, 1))

    def functional(self) -> InputConvexFunctional:
        first = self.raw_filters - self.raw_filters.mean((2, 3), keepdim=True)
        first = first / first.square().sum((1, 2, 3), keepdim=True).sqrt()
        second = self.raw_skips - self.raw_skips.mean((2, 3), keepdim=True)
        smoothings = self.log_smoothings.exp()
        return InputConvexFunctional(
            first, second, self.log_hidden.exp(), self.log_weights.exp(), smoothings, smoothings * self.shifts
        )
