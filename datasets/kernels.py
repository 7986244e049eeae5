"""Blur kernels (h, w) with sum 1."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.images import read_image


class KernelError(ValueError):
    """A blur kernel is missing or unusable; the message names it."""


def gaussian_kernel(size: int, width: float) -> Tensor:  # -> (size, size)
    """exp(-(i^2 + j^2) / (2 width^2)), normalized; float64."""
    grid = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    profile = torch.exp(-grid.square() / (2 * width**2))
    kernel = torch.outer(profile, profile)
    return kernel / kernel.sum()


def read_kernel(spec: str, data_root: Path) -> Tensor:  # -> (h, w)
    """`levin:N` (data_root/kernels/Levin09.npz, key kN), `FILE.npz:KEY`, or an image file; float64, sum 1."""
    if spec.startswith("levin:"):
        file, key = data_root / "kernels" / "Levin09.npz", "k" + spec.removeprefix("levin:")
    else:
        name, _, key = spec.partition(":")
        file = Path(name).expanduser()
    values = _from_npz(file, key) if file.suffix == ".npz" else read_image(file, color=False)[0].numpy()
    kernel = torch.from_numpy(np.asarray(values, dtype=np.float64))
    if kernel.ndim != 2 or not kernel.isfinite().all() or kernel.min() < 0 or kernel.sum() <= 0:
        raise KernelError(f"{spec} is not a blur kernel: it must be a 2-D array, nonnegative and not zero")
    return kernel / kernel.sum()


def _from_npz(file: Path, key: str) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if key not in arrays:
                raise KernelError(f"no kernel {key!r} in {file}; it has {', '.join(arrays)}")
            return arrays[key]
    except KernelError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        raise KernelError(f"cannot read kernels from {file}: {error}") from None
