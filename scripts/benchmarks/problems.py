"""Photographs, trained regularizers, and the denoising problems that are made of them."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.models.model import load_model
from app.problem.losses import SquaredError
from app.problem.operators import denoising
from datasets.image_sets import find_images
from datasets.images import ImageError, read_image
from datasets.patches import centre_crop
from regularizers import FieldOfExperts

NOISE_LEVEL = 25 / 255
MODELS = {"convex": "foe-denoise-grey-25", "weakly convex": "foe-mcp-denoise-grey-25-small"}


def trained(name: str, device: torch.device) -> FieldOfExperts:
    """Load one of MODELS."""
    regularizer = load_model(MODELS[name])[0].regularizer
    assert isinstance(regularizer, FieldOfExperts)
    return regularizer.to(device)


def photographs(root: Path, count: int, size: int, device: torch.device) -> Tensor:  # -> (count, 1, size, size)
    """Crop the centres of held-out photographs: val32 of BSDS500, or those that ship with scikit-image."""
    try:
        paths = find_images("bsds500:val32", root, False).paths
    except ImageError:
        paths = find_images("builtin", root, False).paths
    crops = (centre_crop(read_image(path, False), size) for path in paths)
    crops = [crop for crop in crops if min(crop.shape[1:]) == size]
    return torch.stack([crops[i % len(crops)] for i in range(count)]).to(device)


def denoising_problem(regularizer: FieldOfExperts, clean: Tensor) -> Energy:  # (B, 1, H, W)
    """Return h for photographs with white noise of NOISE_LEVEL."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    operator = denoising(clean.device)(clean.shape[1:], tuple(range(len(clean))))
    return Energy(operator, regularizer.frozen(), clean + NOISE_LEVEL * noise.to(clean))


def in_double(regularizer: FieldOfExperts, energy: Energy, clean: Tensor) -> tuple[Any, Energy, SquaredError]:
    """Copy the regularizer, h and the loss of photographs (B, 1, H, W) to float64, for references."""
    other = deepcopy(regularizer).double()
    return other, replace(energy, functional=other.frozen(), y=energy.y.double()), SquaredError(clean.double())
