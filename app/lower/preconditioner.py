"""A preconditioner for d2h/dx2: a convolution between two scalings, inverted in the Fourier domain.

    P = S C S,   S = diag(d / mean d)^(1/2),   P^-1 v = S^-1 F^-1 (c^-1 F (S^-1 v)),

C the circulant that A^T A + R'' + ridge resembles on average, with symbol c >= mu, and d the diagonal of that sum: C
knows which frequencies are stiff, S where in the image. P decides how fast a solver arrives, not what it certifies.

Of colour images, c is a matrix at every frequency. Luminance and colour differences make it nearly diagonal at all of
them, so its mean over the frequencies gives one basis U per image, and C has a real symbol for each component of U v.
Only where A itself mixes channels, as for complex images, is c inverted as a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.solution import PerImage

ROUNDINGS = 4  # of the sum behind a symbol that may be lost in it


@dataclass(frozen=True)
class Preconditioner(PerImage):
    """The map v -> P^-1 v for a batch, one P per image."""

    unscale: Tensor  # S^-1 (B, C, H, W)
    inverse: Tensor  # c^-1: real (B, C, H, W // 2 + 1, 2), or complex and hermitian (B, C, C, H, W // 2 + 1)
    components: Tensor | None  # U (B, C, C), orthogonal, where c is real and C > 1

    def __call__(self, v: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        v = v * self.unscale
        spectrum = torch.fft.rfft2(v if self.components is None else _turned(self.components, v))
        if self.inverse.is_complex():
            spectrum = _mixed(self.inverse, spectrum)
        else:  # once for the real part, once for the imaginary part
            torch.view_as_real(spectrum).mul_(self.inverse)
        v = torch.fft.irfft2(spectrum, s=v.shape[2:])
        return (v if self.components is None else _turned(self.components.mT, v)).mul_(self.unscale)

    def put(self, images: Tensor, other: Preconditioner) -> None:
        """Replace P of these images, in place."""
        for name, own in vars(self).items():
            if own is not None:
                own.index_copy_(0, images, getattr(other, name))


def _turned(matrices: Tensor, v: Tensor) -> Tensor:  # (B, C, C), (B, C, H, W) -> (B, C, H, W)
    return torch.bmm(matrices, v.flatten(2)).view(v.shape)


def _mixed(matrices: Tensor, v: Tensor) -> Tensor:  # (B, C, C, H, W), (B, C, H, W) -> (B, C, H, W)
    """Multiply by a matrix at every frequency, plane by plane: `einsum` calls BLAS for each of them."""
    product = matrices[:, :, 0] * v[:, None, 0]
    for d in range(1, v.shape[1]):
        product.addcmul_(matrices[:, :, d], v[:, None, d])
    return product


def preconditioner(energy: Energy, x: Tensor) -> Preconditioner | None:  # x (B, C, H, W)
    """Return P at x, for about the cost of one gradient; None where nothing is known of R''.

    Where nothing is known of A^T A, it is taken for ||A||^2. Of this, its mean, 0, and no P at all, this is the best or
    nearly so for foe and tv with random, masking, blurring and subsampled Fourier A (0 is up to twenty times slower).
    """
    known = energy.functional.curvature_model(x)
    if known is None:
        return None
    stencil, diagonal = known
    norm_squared = energy.operator.norm_squared
    data_symbol, data_diagonal = energy.operator.normal_model or (norm_squared, norm_squared)
    least = energy.ridge if energy.assumed is None else max(energy.ridge, energy.assumed)  # keeps P definite
    diagonal = diagonal + data_diagonal + least
    unscale = (diagonal / diagonal.mean((2, 3), keepdim=True)).rsqrt_()
    # Where R's symbol is zero, what rounding leaves of it may be negative and larger than the data's: add as much.
    lost = ROUNDINGS * torch.finfo(x.dtype).eps * stencil.diagonal(dim1=1, dim2=2).abs().sum((1, 2, 3))
    least = least + lost.view(-1, 1, 1, 1)
    if isinstance(data_symbol, Tensor) and data_symbol.is_complex():  # A mixes channels
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, :, None, None]
        symbol = _symbol(stencil, x.shape[2:]) + data_symbol + identity * least.unsqueeze(1)
        return Preconditioner(
            unscale, torch.linalg.inv(symbol.movedim((1, 2), (-2, -1))).movedim((-2, -1), (1, 2)), None
        )
    components = None if x.shape[1] == 1 else _components(stencil)
    # The diagonal of U stencil U^T at every lag.
    own = stencil[:, 0] if components is None else torch.einsum("bkc,bcdij,bkd->bkij", components, stencil, components)
    symbol = (_symbol(own, x.shape[2:]).real.unsqueeze(2) + data_symbol).squeeze(2) + least
    return Preconditioner(unscale, (1 / symbol).unsqueeze(-1).repeat(1, 1, 1, 1, 2), components)


def _components(stencil: Tensor) -> Tensor:  # (B, C, C, 2 r + 1, 2 r + 1) -> (B, C, C)
    """Return U: its rows are the eigenvectors of the mean of the symbol over all frequencies, the stencil at lag 0."""
    radius = stencil.shape[-1] // 2
    mean = stencil[..., radius, radius].nan_to_num(0.0, 0.0, 0.0)  # of what is no number, LAPACK has no eigenvectors
    return torch.linalg.eigh(mean).eigenvectors.mT.contiguous()


def _symbol(stencil: Tensor, shape: torch.Size) -> Tensor:  # (..., 2 r + 1, 2 r + 1) -> (..., H, W // 2 + 1)
    """Return c(w) = sum_l stencil[l] exp(i <w, l>) on the frequencies of rfft2."""
    radius = stencil.shape[-1] // 2
    lags = torch.arange(-radius, radius + 1, dtype=stencil.dtype, device=stencil.device)
    waves = []
    for n, frequencies in ((shape[0], torch.fft.fftfreq), (shape[1], torch.fft.rfftfreq)):
        angles = 2 * torch.pi * torch.outer(frequencies(n, dtype=stencil.dtype, device=stencil.device), lags)
        waves.append(torch.polar(torch.ones_like(angles), angles))
    return waves[0] @ stencil.to(waves[0].dtype) @ waves[1].T
