"""Image quality, one value per image."""

import torch
from torch import Tensor

WINDOW = 11  # pixels: 3.5 widths to each side, rounded


def magnitude(x: Tensor) -> Tensor:  # (..., C, H, W) -> (..., C or 1, H, W)
    """Return |x| of complex images, which have two channels, and others as they are."""
    return x.square().sum(-3, keepdim=True).sqrt() if x.shape[-3] == 2 else x


def psnr(x: Tensor, clean: Tensor) -> Tensor:  # (B, C, H, W), (B, C, H, W) -> (B,)
    """Return the peak signal-to-noise ratio in dB: peak 1, x clipped to [0, 1]; infinite for a perfect x.
    That of complex images is the one of their magnitudes."""
    x, clean = magnitude(x), magnitude(clean)
    return -10 * (x.clamp(0, 1) - clean).square().mean((1, 2, 3)).log10()


def ssim(x: Tensor, clean: Tensor) -> Tensor:  # (B, C, H, W), (B, C, H, W) -> (B,)
    """Return the structural similarity (Wang et al., TIP 2004): Gaussian window of width 1.5, x clipped to [0, 1]; NaN
    for images that are smaller than the window. Of complex images that of their magnitudes."""
    from skimage.metrics import structural_similarity

    x, clean = magnitude(x), magnitude(clean)
    if min(x.shape[2:]) < WINDOW:
        return torch.full((len(x),), torch.nan)

    def one(a: Tensor, b: Tensor) -> float:
        value = structural_similarity(
            a.clamp(0, 1).double().cpu().numpy(), b.double().cpu().numpy(), channel_axis=0, data_range=1.0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        return float(value)  # type: ignore[arg-type]

    return torch.tensor([one(a, b) for a, b in zip(x, clean, strict=True)])
