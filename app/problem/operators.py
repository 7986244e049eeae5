"""Measurement operators: deepinv physics with proven bounds on A^T A. The only module that imports deepinv.physics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from deepinv.physics import BlurFFT, Denoising, Inpainting, LinearPhysics
from torch import Tensor

from datasets.blur_kernels import KernelError, antialias_kernel
from datasets.random import KERNELS, MASKS, generator


@dataclass(frozen=True)
class DeepinvOperator:
    """lambda_min <= A^T A <= norm_squared for a deepinv physics shared by all images of a batch."""

    physics: LinearPhysics
    norm_squared: float
    lambda_min: float
    symbol: Tensor | float = 1.0  # of A^T A, or of the circulant nearest to it, on the frequencies of rfft2
    diagonal: Tensor | float = 1.0  # of A^T A
    norm_proven: bool = field(default=True, kw_only=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        return self.physics.A_adjoint_A(x)

    @property
    def normal_model(self) -> tuple[Tensor | float, Tensor | float]:
        """(symbol, diagonal) of A^T A."""
        return self.symbol, self.diagonal

    def measure(self, clean: Tensor, noise: Tensor) -> Tensor:
        """y = A clean + noise; noise of the shape of the image, already at its level."""
        return self.forward(clean) + noise

    def take(self, images: Tensor) -> DeepinvOperator:
        return self


@dataclass(frozen=True)
class IdentityOperator(DeepinvOperator):
    """A = I, which costs nothing."""

    def normal(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class MaskOperator(DeepinvOperator):
    """Inpainting with one mask per image."""

    mask: Tensor = field(kw_only=True)  # (B, 1, H, W), 1 where measured

    @property
    def normal_model(self) -> tuple[Tensor, Tensor]:
        """A^T A = diag(mask^2), and the circulant nearest to it."""
        squared = self.mask.square()
        return squared.mean((2, 3), keepdim=True).unsqueeze(1), squared

    def measure(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Noise reaches measured pixels only."""
        return self.forward(clean + noise)

    def take(self, images: Tensor) -> MaskOperator:
        return inpainting_operator(self.mask[images])


@dataclass(frozen=True)
class KernelsOperator(DeepinvOperator):
    """Deblurring with one kernel per image; the bounds hold for all of the batch."""

    symbol: Tensor = field(kw_only=True)  # (B, 1, 1, H, W // 2 + 1)
    diagonal: Tensor = field(kw_only=True)  # (B, 1, 1, 1)
    kernels: Tensor = field(kw_only=True)  # (B, 1, h, w)
    shape: torch.Size = field(kw_only=True)  # (C, H, W)

    def take(self, images: Tensor) -> KernelsOperator:
        kernels = self.kernels[images]
        symbol, diagonal = self.symbol[images], self.diagonal[images]
        return replace(self, physics=_blur(kernels, self.shape), symbol=symbol, diagonal=diagonal, kernels=kernels)


@dataclass(frozen=True)
class DownsamplingOperator(DeepinvOperator):
    """A = S K: a circular convolution K, of which S keeps one pixel of each block of factor x factor. `physics` is K.

    With m over the factor^2 frequencies that S makes one, A A^T is the circulant of sum_m |k^_m|^2 / factor^2 on the
    coarse grid, whose maximum is ||A||^2. Averaged over all shifts of the grid, S^T S is 1 / factor^2: the circulant
    nearest to A^T A has the symbol |k^|^2 / factor^2. lambda_min = 0: the blocks hold more pixels than are kept.
    """

    factor: int = field(kw_only=True)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H / factor, W / factor)
        return self._kept(self.physics.A(x))

    def adjoint(self, y: Tensor) -> Tensor:  # (B, C, H / factor, W / factor) -> (B, C, H, W)
        x = y.new_zeros(*y.shape[:2], *(n * self.factor for n in y.shape[2:]))
        self._kept(x).copy_(y)
        return self.physics.A_adjoint(x)

    def normal(self, x: Tensor) -> Tensor:
        return self.adjoint(self.forward(x))

    def measure(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Noise reaches the pixels that are kept."""
        return self.forward(clean) + self._kept(noise)

    def _kept(self, x: Tensor) -> Tensor:
        """Of each block the pixel in the middle, or the last before it: there an even kernel is centred too."""
        first = (self.factor - 1) // 2
        return x[..., first :: self.factor, first :: self.factor]


# (shape (C, H, W), positions of the images in their set) -> operator of that batch
OperatorFactory = Callable[[torch.Size, tuple[int, ...]], DeepinvOperator]


def denoising(device: torch.device) -> OperatorFactory:
    """A = I."""
    operator = IdentityOperator(Denoising(device=device), 1.0, 1.0)
    return lambda shape, images: operator


def deblurring(kernel: Tensor, device: torch.device, dtype: torch.dtype) -> OperatorFactory:
    """Circular convolution with kernel (h, w). The bounds are its exact spectrum on the image's grid."""
    operators: dict[torch.Size, DeepinvOperator] = {}

    def build(shape: torch.Size, images: tuple[int, ...]) -> DeepinvOperator:
        if shape not in operators:
            power = _power(kernel, shape)
            symbol = power[:, : shape[2] // 2 + 1].to(device, dtype)
            operators[shape] = DeepinvOperator(
                _blur(kernel.to(device, dtype)[None, None], shape), float(power.max()), float(power.min()), symbol,
                float(power.mean()),
            )  # fmt: skip
        return operators[shape]

    return build


def deblurring_by_any(
    kernels: Tensor, choose: Callable[[int], int], device: torch.device, dtype: torch.dtype
) -> OperatorFactory:
    """Circular convolution of image i with kernels[choose(i)], kernels (N, h, w)."""
    powers: dict[torch.Size, Tensor] = {}

    def build(shape: torch.Size, images: tuple[int, ...]) -> DeepinvOperator:
        if shape not in powers:
            powers[shape] = _power(kernels, shape)
        chosen = torch.tensor([choose(i) for i in images])
        power, filters = powers[shape][chosen], kernels[chosen].to(device, dtype)[:, None]
        return KernelsOperator(
            _blur(filters, shape), float(power.max()), float(power.min()),
            symbol=power[:, None, None, :, : shape[2] // 2 + 1].to(device, dtype),
            diagonal=power.mean((1, 2))[:, None, None, None].to(device, dtype), kernels=filters, shape=shape,
        )  # fmt: skip

    return build


def drawn(count: int, seed: int) -> Callable[[int], int]:
    """Image -> one of `count` numbers, which belongs to (seed, image)."""
    return lambda image: int(torch.randint(count, (), generator=generator(seed, KERNELS, image)))


def super_resolution(factor: int, width: float, device: torch.device, dtype: torch.dtype) -> OperatorFactory:
    """One pixel of each block of factor x factor, after a circular Gaussian blur of `width` coarse pixels."""
    kernel = antialias_kernel(factor, width)
    operators: dict[torch.Size, DownsamplingOperator] = {}

    def build(shape: torch.Size, images: tuple[int, ...]) -> DownsamplingOperator:
        if shape not in operators:
            operators[shape] = _downsampling(kernel, factor, shape, device, dtype)
        return operators[shape]

    return build


def _downsampling(
    kernel: Tensor, factor: int, shape: torch.Size, device: torch.device, dtype: torch.dtype
) -> DownsamplingOperator:
    _, h, w = shape
    if h % factor or w % factor:
        raise KernelError(f"images of {w} x {h} pixels are not made of whole blocks of {factor} x {factor}")
    power = _power(kernel, shape)
    aliased = power.view(factor, h // factor, factor, w // factor).sum((0, 2)) / factor**2
    physics = _blur(kernel.to(device, dtype)[None, None], shape)
    symbol = power[:, : w // 2 + 1].to(device, dtype) / factor**2
    return DownsamplingOperator(
        physics, float(aliased.max()), 0.0, symbol, float(power.mean()) / factor**2, factor=factor
    )


def _power(kernels: Tensor, shape: torch.Size) -> Tensor:  # (..., h, w) -> (..., H, W)
    """|k^|^2 on the image's grid, in float64. Raises KernelError where a kernel does not fit."""
    if kernels.shape[-2] > shape[1] or kernels.shape[-1] > shape[2]:
        raise KernelError(f"the {tuple(kernels.shape[-2:])} kernel is larger than the image, {tuple(shape[1:])}")
    return torch.fft.fft2(kernels.double(), s=tuple(shape[1:])).abs().square()


def _blur(filters: Tensor, shape: torch.Size) -> BlurFFT:  # (B or 1, 1, h, w)
    """Built from filters of the final dtype: its `.to(float64)` would corrupt the operator."""
    return BlurFFT(tuple(shape), filter=filters, device=filters.device)


def inpainting(keep: float, seed: int, device: torch.device, dtype: torch.dtype) -> OperatorFactory:
    """Each pixel is measured with probability `keep`, in all channels; the mask belongs to (seed, image)."""

    def build(shape: torch.Size, images: tuple[int, ...]) -> DeepinvOperator:
        masks = [torch.rand((1, *shape[1:]), generator=generator(seed, MASKS, i)) < keep for i in images]
        return inpainting_operator(torch.stack(masks).to(device, dtype))

    return build


def inpainting_operator(mask: Tensor) -> MaskOperator:  # (B, 1, H, W)
    lowest, highest = float(mask.min()), float(mask.max())
    physics = Inpainting(tuple(mask.shape[1:]), mask=mask, device=mask.device)  # type: ignore[arg-type]
    return MaskOperator(physics, highest**2, lowest**2, mask=mask)
