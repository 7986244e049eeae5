"""Circular convolution A x = k * x, channel by channel, and the derivatives of the misfit by the kernel.

    (A x)(n) = sum_d k(d) x(n - d),    A = F^-1 diag(k^) F,    A^T A = F^-1 diag(|k^|^2) F,

d on a rectangle around 0, in pixels. With r = A x - y and S_d the shift by d, A = sum_d k(d) S_d gives

    d/dk(d)  1/2 ||r||^2  =  <r, S_d x>                  =  corr(r, x)(d)
    d/dk(d)  <A^T r, q>   =  <r, S_d q> + <S_d x, A q>   =  corr(r, q)(d) + corr(A q, x)(d),

corr(a, b)(d) = sum_n a(n) b(n - d) = F^-1(a^ conj(b^))(d), summed over images and channels. Pixel (h // 2, w // 2) of a
kernel (h, w) is d = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Convolution:
    """A with its exact spectrum on the image's grid."""

    kernel: Tensor  # k (h, w)
    spectrum: Tensor  # k^ (H, W // 2 + 1), of rfft2
    width: int  # W
    norm_squared: float
    lambda_min: float
    diagonal: float  # of A^T A
    norm_proven: bool = True

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self._filtered(x, self.spectrum)

    def adjoint(self, y: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self._filtered(y, self.spectrum.conj())

    def normal(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self._filtered(x, self.spectrum.abs().square())

    def misfit_gradient(self, y: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        return misfit_gradient(self.spectrum, y)

    @property
    def normal_model(self) -> tuple[Tensor | float, Tensor | float]:
        """(symbol, diagonal) of A^T A, which is a circulant."""
        return self.spectrum.abs().square(), self.diagonal

    def take(self, images: Tensor) -> Convolution:
        return self

    def promoted(self) -> Convolution:
        """Return A in float64: the kernel stays what it is."""
        return convolution(self.kernel.double(), (len(self.spectrum), self.width))

    def _filtered(self, x: Tensor, symbol: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * symbol, s=(len(symbol), self.width))


def convolution(kernel: Tensor, grid: tuple[int, int]) -> Convolution:
    """Return A for k (h, w) on images of this grid (H, W), h <= H and w <= W; bounds in float64."""
    (h, w), k = kernel.shape, kernel.detach().double()
    centred = F.pad(k, (0, grid[1] - w, 0, grid[0] - h)).roll((-(h // 2), -(w // 2)), (0, 1))
    spectrum = torch.fft.rfft2(centred)
    power = spectrum.abs().square()
    in_precision, bounds = spectrum.to(kernel.dtype.to_complex()), (float(power.max()), float(power.min()))
    return Convolution(kernel.detach(), in_precision, grid[1], *bounds, float(k.square().sum()))


def misfit_gradient(spectrum: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:  # (..., H, W // 2 + 1), (B, C, H, W)
    """Return x -> A^T (A x - y) = F^-1 conj(k^) (k^ F x - F y): one transform there, and one back."""
    measured, shape = torch.fft.rfft2(y), y.shape[2:]

    def gradient(x: Tensor) -> Tensor:
        residual = torch.fft.rfft2(x).mul_(spectrum).sub_(measured)
        return torch.fft.irfft2(residual.mul_(spectrum.conj()), s=shape)

    return gradient


def correlation(a: Tensor, b: Tensor, size: tuple[int, int]) -> Tensor:  # 2 x (B, C, H, W) -> (h, w)
    """Return corr(a, b) at the displacements of a kernel of this size."""
    spectrum = (torch.fft.rfft2(a) * torch.fft.rfft2(b).conj()).sum((0, 1))
    everywhere = torch.fft.irfft2(spectrum, s=a.shape[2:])
    return everywhere.roll((size[0] // 2, size[1] // 2), (0, 1))[: size[0], : size[1]]


def misfit_by_kernel(operator: Convolution, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:  # -> (h, w)
    """Return d/dk sum_b 1/2 ||A x_b - y_b||^2."""
    return correlation(operator.forward(x) - y, x, size)


def mixed_by_kernel(operator: Convolution, x: Tensor, y: Tensor, q: Tensor, size: tuple[int, int]) -> Tensor:
    """Return d/dk sum_b <A^T (A x_b - y_b), q_b>, (h, w)."""
    return correlation(operator.forward(x) - y, q, size) + correlation(operator.forward(q), x, size)
