"""LPIPS, the distance of images in the features of a network (Zhang et al., CVPR 2018), by the package lpips:

    sum over layers and channels of  w (f(x) - f(x'))^2,    f: features of AlexNet on [-1, 1], normalized, averaged.

It is shown where that package is installed, and its network can be had. Small is near.
"""

import importlib

import torch
from torch import Tensor

from app.evaluation.evaluate import Distance


def distance(device: torch.device, notes: list[str]) -> Distance | None:
    """Return LPIPS between two images (1, C, H, W), clipped to [0, 1]. Return None without the package, and where its
    network cannot be had: a note says so."""
    try:
        package = importlib.import_module("lpips")
    except ImportError:
        return None
    try:
        network = package.LPIPS(net="alex", verbose=False).to(device).eval()
    except (OSError, RuntimeError) as error:  # it downloads AlexNet
        notes.append(f"LPIPS is left out: {' '.join(str(error).split())}")
        return None

    @torch.no_grad()
    def between(x: Tensor, clean: Tensor) -> float:
        a, b = (2 * t.float().clamp(0, 1).expand(-1, 3, -1, -1) - 1 for t in (x, clean))
        return float(network(a, b))

    return between
