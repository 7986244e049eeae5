"""The operators of the tasks that the program knows by name, with bounds from their exact spectra."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from deepinv.physics import BlurFFT, Denoising, Inpainting, LinearPhysics
from torch import Tensor

from app.problem.operators import (
    BlurOperator,
    IdentityOperator,
    LinearOperator,
    OperatorError,
    Operators,
    TomographyOperator,
    tomography_operator,
)
from app.problem.tomography import detectors_for, directions_at, ray_sums
from datasets.blur_kernels import KernelError
from datasets.random import KERNELS, MASKS, generator


@dataclass(frozen=True, kw_only=True)
class MaskOperator(LinearOperator):
    """Inpainting with one mask per image: A = diag(mask)."""

    mask: Tensor  # (B, 1, H, W), 1 where measured

    def take(self, images: Tensor) -> MaskOperator:
        return inpainting_operator(self.mask[images], self.image_shape)


@dataclass(frozen=True, kw_only=True)
class KernelsOperator(BlurOperator):
    """Deblurring with one kernel per image; the bounds hold for all of the batch.

    symbol (B, 1, 1, H, W // 2 + 1) and diagonal (B, 1, 1, 1) are |k^|^2 and ||k||^2 of each image.
    """

    kernels: Tensor  # (B, 1, h, w)

    def take(self, images: Tensor) -> KernelsOperator:
        kernels = self.kernels[images]
        symbol, diagonal = (t[images] for t in (self.symbol, self.diagonal))  # type: ignore[index]
        physics = _blur(kernels, self.image_shape)
        return replace(self, physics=physics, symbol=symbol, diagonal=diagonal, kernels=kernels)


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
    kernel = kernel.float()  # A is the same in every precision

    @cache
    def build(shape: torch.Size) -> LinearOperator:
        power = _power(kernel, shape)
        return BlurOperator(
            physics=_blur(kernel.to(device, dtype)[None, None], shape), image_shape=shape,
            norm_squared=float(power.max()), lambda_min=float(power.min()), fused_normal=True,
            symbol=power[:, : shape[2] // 2 + 1].to(device, dtype), diagonal=float(power.mean()),
        )  # fmt: skip

    return Operators(lambda shape, images: build(shape))


def deblurring_by_any(
    kernels: Tensor, choose: Callable[[int], int], device: torch.device, dtype: torch.dtype
) -> Operators:
    """Return circular convolution of image i with kernels[choose(i)], kernels (N, h, w)."""
    kernels = kernels.float()  # A is the same in every precision
    powers = cache(partial(_power, kernels))

    def build(shape: torch.Size, images: tuple[int, ...]) -> KernelsOperator:
        chosen = torch.tensor([choose(i) for i in images])
        power, filters = powers(shape)[chosen], kernels[chosen].to(device, dtype)[:, None]
        return KernelsOperator(
            physics=_blur(filters, shape), image_shape=shape, norm_squared=float(power.max()),
            lambda_min=float(power.min()), fused_normal=True, kernels=filters,
            symbol=power[:, None, None, :, : shape[2] // 2 + 1].to(device, dtype),
            diagonal=power.mean((1, 2))[:, None, None, None].to(device, dtype),
        )  # fmt: skip

    return Operators(build)


def drawn(count: int, seed: int) -> Callable[[int], int]:
    """Return image -> one of `count` numbers, which belongs to (seed, image)."""
    return lambda image: int(torch.randint(count, (), generator=generator(seed, KERNELS, image)))


def super_resolution(
    factor: int, kernel: Tensor, device: torch.device, dtype: torch.dtype
) -> Operators:  # kernel (h, w)
    """Return A that keeps one pixel of each block of factor x factor, after a circular blur. Raises KernelError for
    images that are not made of whole blocks."""
    kernel = kernel.float()  # A is the same in every precision

    @cache
    def build(shape: torch.Size) -> DownsamplingOperator:
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

    def whole(shape: torch.Size) -> torch.Size:
        return torch.Size((shape[0], factor * shape[1], factor * shape[2]))

    return Operators(lambda shape, images: build(shape), whole, factor)


def inpainting(keep: float, seed: int, device: torch.device, dtype: torch.dtype) -> Operators:
    """Return A that measures each pixel with probability `keep`, in all channels; the mask belongs to (seed, image)."""
    return inpainting_with(lambda i, grid: torch.rand(grid, generator=generator(seed, MASKS, i)) < keep, device, dtype)


def inpainting_with(
    mask_of: Callable[[int, torch.Size], Tensor], device: torch.device, dtype: torch.dtype
) -> Operators:  # mask_of: (position of an image, its (H, W)) -> (H, W)
    """Return A = diag(mask) with the mask of each image, in all channels."""

    def build(shape: torch.Size, images: tuple[int, ...]) -> MaskOperator:
        masks = torch.stack([mask_of(i, shape[1:]) for i in images])[:, None]
        return inpainting_operator(masks.to(device, dtype), shape)

    return Operators(build)


def inpainting_operator(mask: Tensor, shape: torch.Size) -> MaskOperator:  # mask (B, 1, H, W)
    """Return A = diag(mask) on images of shape (C, H, W), with the circulant nearest to A^T A = diag(mask^2)."""
    lowest, highest, squared = float(mask.min()), float(mask.max()), mask.square()
    physics = Inpainting(tuple(mask.shape[1:]), mask=mask, device=mask.device)  # type: ignore[arg-type]
    return MaskOperator(
        physics=physics, image_shape=shape, norm_squared=highest**2, lambda_min=lowest**2, fused_normal=True,
        support=(mask != 0).to(mask), mask=mask, diagonal=squared,
        symbol=squared.mean((2, 3), keepdim=True).unsqueeze(1),
    )  # fmt: skip


def tomography(angles: Sequence[float], device: torch.device, dtype: torch.dtype) -> Operators:  # degrees
    """Return A that sums along parallel rays from these angles, divided by the root of their number.

    The image that has measurements (C, D, N) is square: a rectangular one is known from elsewhere. Raises
    OperatorError for measurements that no square image has from these angles.
    """
    directions, physics = directions_at(angles), LinearPhysics(device=device)

    @cache
    def common(shape: torch.Size) -> TomographyOperator:  # whose norm is proven once
        rays = ray_sums((shape[1], shape[2]), directions, len(directions) ** -0.5, False, dtype).to(device)
        return tomography_operator(rays, physics, shape)

    def build(shape: torch.Size, images: tuple[int, ...]) -> TomographyOperator:
        return common(shape)

    def square(shape: torch.Size) -> torch.Size:
        side = int(shape[1] / math.sqrt(2))
        if shape[2] != len(directions) or side == 0 or detectors_for(side) != shape[1]:
            raise OperatorError(
                f"a sinogram of {shape[1]} cells and {shape[2]} angles is none of a square image from "
                f"{len(directions)} angles, which has ceil(sqrt(2) side) cells"
            )
        return torch.Size((shape[0], side, side))

    return Operators(build, square)


def _power(kernels: Tensor, shape: torch.Size) -> Tensor:  # (..., h, w) -> (..., H, W)
    """|k^|^2 on the image's grid, in float64. Raises KernelError where a kernel does not fit."""
    if kernels.shape[-2] > shape[1] or kernels.shape[-1] > shape[2]:
        raise KernelError(f"the {tuple(kernels.shape[-2:])} kernel is larger than the image, {tuple(shape[1:])}")
    return torch.fft.fft2(kernels.double(), s=tuple(shape[1:])).abs().square()


def _blur(filters: Tensor, shape: torch.Size) -> BlurFFT:  # (B or 1, 1, h, w)
    """Built from filters of the final dtype: its `.to(float64)` would corrupt the operator."""
    return BlurFFT(tuple(shape), filter=filters, device=filters.device)
