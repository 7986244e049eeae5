"""Measurement operators: deepinv physics with proven bounds on A^T A. The only module that imports deepinv.physics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from deepinv.physics import BlurFFT, Denoising, Inpainting, LinearPhysics
from torch import Tensor

from datasets.kernels import KernelError
from datasets.random import MASKS, generator


@dataclass(frozen=True)
class DeepinvOperator:
    """lambda_min <= A^T A <= norm_squared for a deepinv physics shared by all images of a batch."""

    physics: LinearPhysics
    norm_squared: float
    lambda_min: float
    symbol: Tensor | float = 1.0  # of A^T A on the frequencies of rfft2 (H, W // 2 + 1)
    diagonal: float = 1.0  # of A^T A

    def forward(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        return self.physics.A_adjoint_A(x)

    @property
    def normal_model(self) -> tuple[Tensor | float, Tensor | float]:
        """(symbol, diagonal) of A^T A, which is a circulant."""
        return self.symbol, self.diagonal

    def measure(self, clean: Tensor, noise: Tensor) -> Tensor:
        """y = A clean + noise; noise (B, C, H, W) already at its level."""
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
        if kernel.shape[0] > shape[1] or kernel.shape[1] > shape[2]:
            raise KernelError(f"the {tuple(kernel.shape)} kernel is larger than the image, {tuple(shape[1:])}")
        if shape not in operators:
            power = torch.fft.fft2(kernel.double(), s=tuple(shape[1:])).abs().square()
            # BlurFFT built from a filter of the final dtype: its `.to(float64)` would corrupt the operator.
            physics = BlurFFT(tuple(shape), filter=kernel.to(device, dtype)[None, None], device=device)
            symbol = power[:, : shape[2] // 2 + 1].to(device, dtype)
            operators[shape] = DeepinvOperator(
                physics, float(power.max()), float(power.min()), symbol, float(power.mean())
            )
        return operators[shape]

    return build


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
