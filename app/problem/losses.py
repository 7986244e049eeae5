"""Upper-level losses and image quality, one value per image."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SquaredError:
    """loss(x) = weight / 2 ||x - clean||^2."""

    clean: Tensor  # (B, C, H, W)
    weight: float = 1.0

    @property
    def smoothness(self) -> float:
        """Lipschitz constant of the gradient."""
        return self.weight

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        return 0.5 * self.weight * (x - self.clean).square().sum((1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self.weight * (x - self.clean)

    def take(self, images: Tensor) -> "SquaredError":
        return SquaredError(self.clean[images])


def psnr(x: Tensor, clean: Tensor) -> Tensor:  # (B, C, H, W), (B, C, H, W) -> (B,)
    """Peak signal-to-noise ratio in dB: peak 1, x clipped to [0, 1]; infinite for a perfect x."""
    return -10 * (x.clamp(0, 1) - clean).square().mean((1, 2, 3)).log10()


def ssim(x: Tensor, clean: Tensor) -> Tensor:  # (B, C, H, W), (B, C, H, W) -> (B,)
    """Structural similarity (Wang et al., TIP 2004): Gaussian window of width 1.5, x clipped to [0, 1]."""
    from skimage.metrics import structural_similarity

    def one(a: Tensor, b: Tensor) -> float:
        value = structural_similarity(
            a.clamp(0, 1).double().cpu().numpy(),
            b.double().cpu().numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        return float(value)  # type: ignore[arg-type]

    return torch.tensor([one(a, b) for a, b in zip(x, clean, strict=True)])
