"""The operators of the tasks that the program knows by name, with bounds from their exact spectra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from deepinv.physics import BlurFFT, Denoising, Inpainting
from torch import Tensor

from app.problem.operators import IdentityOperator, LinearOperator, Operators
from datasets.blur_kernels import KernelError, antialias_kernel
from datasets.random import KERNELS, MASKS, generator


@dataclass(frozen=True, kw_only=True)
class MaskOperator(LinearOperator):
    """Inpainting with one mask per image: A = diag(mask)."""

    mask: Tensor  # (B, 1, H, W), 1 where measured

    @property
    def normal_model(self) -> tuple[Tensor, Tensor]:
        """A^T A = diag(mask^2), and the circulant nearest to it."""
        squared = self.mask.square()
        return squared.mean((2, 3), keepdim=True).unsqueeze(1), squared

    def take(self, images: Tensor) -> MaskOperator:
        return inpainting_operator(self.mask[images], self.image_shape)


@dataclass(frozen=True, kw_only=True)
class KernelsOperator(LinearOperator):
    """Deblurring with one kernel per image; the bounds hold for all of the batch."""

    powers: Tensor  # (B, 1, 1, H, W // 2 + 1): the symbols |k^|^2
    energies: Tensor  # (B, 1, 1, 1): the diagonals, ||k||^2
    kernels: Tensor  # (B, 1, h, w)

    @property
    def normal_model(self) -> tuple[Tensor, Tensor]:
        """A^T A is a circulant."""
        return self.powers, self.energies

    def take(self, images: Tensor) -> KernelsOperator:
        kernels, powers, energies = self.kernels[images], self.powers[images], self.energies[images]
        physics = _blur(kernels, self.image_shape)
        return replace(self, physics=physics, powers=powers, energies=energies, kernels=kernels)


@dataclass(frozen=True, kw_only=True)
class DownsamplingOperator(LinearOperator):
    """A = S K: a circular convolution K, of which S keeps one pixel of each block of factor x factor. `physics` is K.

    With m over the factor^2 frequencies that S makes one, A A^T is the circulant of sum_m |k^_m|^2 / factor^2 on the
    coarse grid, whose maximum is ||A||^2. Averaged over all shifts of the grid, S^T S is 1 / factor^2: the circulant
    nearest to A^T A has the symbol |k^|^2 / factor^2. lambda_min = 0: the blocks hold more pixels than are kept.
    """

    factor: int

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H / factor, W / factor)
        return self._kept(self.physics.A(x))

    def adjoint(self, y: Tensor) -> Tensor:  # (B, C, H / factor, W / factor) -> (B, C, H, W)
        x = y.new_zeros(*y.shape[:2], *(n * self.factor for n in y.shape[2:]))
        self._kept(x).copy_(y)
        return self.physics.A_adjoint(x)

    def as_image(self, y: Tensor) -> Tensor:  # (B, C, H / factor, W / factor) -> (B, C, H, W)
        """Return the bicubic enlargement."""
        return F.interpolate(y, scale_factor=self.factor, mode="bicubic")

    def _kept(self, x: Tensor) -> Tensor:
        """Of each block the pixel in the middle, or the last before it: there an even kernel is centred too."""
        first = (self.factor - 1) // 2
        return x[..., first :: self.factor, first :: self.factor]


def denoising(device: torch.device) -> Operators:
    """Return A = I."""
    physics = Denoising(device=device)
    return Operators(lambda shape, images: IdentityOperator(physics=physics, image_shape=shape))


def deblurring(kernel: Tensor, device: torch.device, dtype: torch.dtype) -> Operators:  # kernel (h, w)
    """Return circular convolution with a kernel. The bounds are its exact spectrum on the image's grid."""
    made: dict[torch.Size, LinearOperator] = {}

    def build(shape: torch.Size, images: tuple[int, ...]) -> LinearOperator:
        if shape not in made:
            power = _power(kernel, shape)
            made[shape] = LinearOperator(
                physics=_blur(kernel.to(device, dtype)[None, None], shape), image_shape=shape,
                norm_squared=float(power.max()), lambda_min=float(power.min()), fused_normal=True,
                symbol=power[:, : shape[2] // 2 + 1].to(device, dtype), diagonal=float(power.mean()),
            )  # fmt: skip
        return made[shape]

    return Operators(build)


def deblurring_by_any(
    kernels: Tensor, choose: Callable[[int], int], device: torch.device, dtype: torch.dtype
) -> Operators:
    """Return circular convolution of image i with kernels[choose(i)], kernels (N, h, w)."""
    powers: dict[torch.Size, Tensor] = {}

    def build(shape: torch.Size, images: tuple[int, ...]) -> KernelsOperator:
        if shape not in powers:
            powers[shape] = _power(kernels, shape)
        chosen = torch.tensor([choose(i) for i in images])
        power, filters = powers[shape][chosen], kernels[chosen].to(device, dtype)[:, None]
        return KernelsOperator(
            physics=_blur(filters, shape), image_shape=shape, norm_squared=float(power.max()),
            lambda_min=float(power.min()), fused_normal=True, kernels=filters,
            powers=power[:, None, None, :, : shape[2] // 2 + 1].to(device, dtype),
            energies=power.mean((1, 2))[:, None, None, None].to(device, dtype),
        )  # fmt: skip

    return Operators(build)


def drawn(count: int, seed: int) -> Callable[[int], int]:
    """Return image -> one of `count` numbers, which belongs to (seed, image)."""
    return lambda image: int(torch.randint(count, (), generator=generator(seed, KERNELS, image)))


def super_resolution(factor: int, width: float, device: torch.device, dtype: torch.dtype) -> Operators:
    """Return A that keeps one pixel of each block of factor x factor, after a circular Gaussian blur of `width` coarse
    pixels. Raises KernelError for images that are not made of whole blocks."""
    kernel = antialias_kernel(factor, width)
    made: dict[torch.Size, DownsamplingOperator] = {}

    def build(shape: torch.Size, images: tuple[int, ...]) -> DownsamplingOperator:
        if shape not in made:
            made[shape] = _downsampling(kernel, factor, shape, device, dtype)
        return made[shape]

    return Operators(build, lambda shape: torch.Size((shape[0], factor * shape[1], factor * shape[2])), factor)


def inpainting(keep: float, seed: int, device: torch.device, dtype: torch.dtype) -> Operators:
    """Return A that measures each pixel with probability `keep`, in all channels; the mask belongs to (seed, image)."""

    def build(shape: torch.Size, images: tuple[int, ...]) -> MaskOperator:
        masks = [torch.rand((1, *shape[1:]), generator=generator(seed, MASKS, i)) < keep for i in images]
        return inpainting_operator(torch.stack(masks).to(device, dtype), shape)

    return Operators(build)


def inpainting_operator(mask: Tensor, shape: torch.Size) -> MaskOperator:  # mask (B, 1, H, W)
    """Return A = diag(mask) on images of shape (C, H, W)."""
    lowest, highest = float(mask.min()), float(mask.max())
    physics = Inpainting(tuple(mask.shape[1:]), mask=mask, device=mask.device)  # type: ignore[arg-type]
    return MaskOperator(
        physics=physics, image_shape=shape, norm_squared=highest**2, lambda_min=lowest**2, fused_normal=True,
        support=(mask != 0).to(mask), mask=mask,
    )  # fmt: skip


def _downsampling(
    kernel: Tensor, factor: int, shape: torch.Size, device: torch.device, dtype: torch.dtype
) -> DownsamplingOperator:
    _, h, w = shape
    if h % factor or w % factor:
        raise KernelError(f"images of {w} x {h} pixels are not made of whole blocks of {factor} x {factor}")
    power = _power(kernel, shape)
    aliased = power.view(factor, h // factor, factor, w // factor).sum((0, 2)) / factor**2
    return DownsamplingOperator(
        physics=_blur(kernel.to(device, dtype)[None, None], shape), image_shape=shape,
        norm_squared=float(aliased.max()), symbol=power[:, : w // 2 + 1].to(device, dtype) / factor**2,
        diagonal=float(power.mean()) / factor**2, factor=factor,
    )  # fmt: skip


def _power(kernels: Tensor, shape: torch.Size) -> Tensor:  # (..., h, w) -> (..., H, W)
    """|k^|^2 on the image's grid, in float64. Raises KernelError where a kernel does not fit."""
    if kernels.shape[-2] > shape[1] or kernels.shape[-1] > shape[2]:
        raise KernelError(f"the {tuple(kernels.shape[-2:])} kernel is larger than the image, {tuple(shape[1:])}")
    return torch.fft.fft2(kernels.double(), s=tuple(shape[1:])).abs().square()


def _blur(filters: Tensor, shape: torch.Size) -> BlurFFT:  # (B or 1, 1, h, w)
    """Built from filters of the final dtype: its `.to(float64)` would corrupt the operator."""
    return BlurFFT(tuple(shape), filter=filters, device=filters.device)
