"""Blur kernels (h, w) are nonnegative and have the sum 1."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.images import read_image

LEVIN = 8  # kernels of Levin et al. (CVPR 2009), camera shake


class KernelError(ValueError):
    """A blur kernel is missing or unusable; the message names it."""


def gaussian_kernel(size: int, width: float) -> Tensor:  # -> (size, size)
    """Return exp(-(i^2 + j^2) / (2 width^2)), normalized to the sum 1, in float64. width in pixels."""
    grid = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    profile = torch.exp(-grid.square() / (2 * width**2))
    kernel = torch.outer(profile, profile)
    return kernel / kernel.sum()


def antialias_kernel(factor: int, width: float) -> Tensor:  # -> (n, n)
    """Return the blur before every factor-th pixel is kept: a Gaussian of `width` coarse pixels, out to three widths.

    n has the parity of the factor, so that the middle of an even kernel lies between pixels, as does that of a block of
    factor x factor pixels.
    """
    radius = math.ceil(3 * width * factor)
    return gaussian_kernel(2 * radius + factor % 2, width * factor)


def levin_kernels(data_root: Path) -> Tensor:  # -> (8, h, w)
    """Read `levin:1` ... `levin:8`, each in the middle of the largest one's support (their sides are odd).

    Raises KernelError.
    """
    kernels = [read_kernel(f"levin:{n}", data_root) for n in range(1, LEVIN + 1)]
    side = max(max(k.shape) for k in kernels)
    around = [[(side - n) // 2 for n in k.shape] for k in kernels]
    return torch.stack([F.pad(k, (w, w, h, h)) for k, (h, w) in zip(kernels, around, strict=True)])


def read_kernel(spec: str, data_root: Path) -> Tensor:  # -> (h, w)
    """Read `levin:N` (data_root/kernels/Levin09.npz, key kN), `FILE.npz:KEY` or an image file, as float64 with sum 1.

    Raises KernelError.
    """
    file, key = _place(spec, data_root)
    values = _from_npz(file, key) if file.suffix == ".npz" else read_image(file, color=False)[0].numpy()
    kernel = torch.from_numpy(np.asarray(values, dtype=np.float64))
    if kernel.ndim != 2 or not kernel.isfinite().all() or kernel.min() < 0 or kernel.sum() <= 0:
        raise KernelError(f"{spec} is not a blur kernel: it must be a 2-D array, nonnegative and not zero")
    return kernel / kernel.sum()


def is_file(spec: str) -> bool:
    """Tell whether a kernel is a file of the user."""
    return spec.partition(":")[0] not in ("gaussian", "levin")


def kernel_file(spec: str, data_root: Path) -> Path | None:
    """Return the file that holds a kernel; None where it is computed."""
    return None if spec.startswith("gaussian") else _place(spec, data_root)[0]


def _place(spec: str, data_root: Path) -> tuple[Path, str]:
    """Return the file that holds a kernel, and its key there."""
    if spec.startswith("levin:"):
        return data_root / "kernels" / "Levin09.npz", "k" + spec.removeprefix("levin:")
    name, _, key = spec.partition(":")
    return Path(name).expanduser(), key


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
