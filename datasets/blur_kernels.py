"""Blur kernels (h, w) have the sum 1 and, unless the user allows others, no negative entries.

The centre of a kernel is its pixel (h // 2, w // 2), counted from 0: a kernel that is 1 there and 0 elsewhere changes
nothing.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.arrays import ARRAYS, ArrayError, find_array, is_array, read_array
from datasets.files import printable
from datasets.images import GREY, SUFFIXES, ImageError, read_pixels

LEVIN = 8  # kernels of Levin et al. (CVPR 2009), camera shake
LARGEST = 2**27  # bytes of a kernel: 4096 x 4096 in float64
ALIKE = 0.02  # of the largest entry, by which those of a background differ
ROUNDED = 1e-3  # a sum that is so close to 1 is 1, rounded


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


def read_kernel(spec: str, data_root: Path, signed: bool = False) -> Tensor:  # -> (h, w)
    """Read `levin:N` (data_root/kernels/Levin09.npz, key kN), an array FILE[:KEY] (see arrays.py) or an image, as
    float64 with sum 1. signed: negative entries are allowed. Raises KernelError."""
    values = _values(spec, data_root)
    total = values.sum()
    if not total.isfinite() or total <= 0:
        raise KernelError(f"{printable(spec)} is not a blur kernel: its sum must be above 0, and is {float(total):g}")
    if values.min() < 0 and not signed:
        raise KernelError(
            f"{printable(spec)} has negative entries down to {float(values.min() / total):.3g} of its sum: set "
            f"problem.signed_kernel = true if they belong to it"
        )
    return values / total


def kernel_notes(spec: str, data_root: Path) -> list[str]:
    """Return what the user of a kernel file must know of it, one line each. Raises KernelError."""
    if not is_file(spec):
        return []
    values, notes = _values(spec, data_root), []
    (h, w), total = values.shape, float(values.sum())
    if h % 2 == 0 or w % 2 == 0:
        centre = f"row {h // 2}, column {w // 2}, from 0"
        notes.append(f"kernel {printable(spec)}: {h} x {w} numbers; its centre is {centre}")
    if _spread(values) > 2 * _spread(torch.fft.fftshift(values)):
        notes.append(f"kernel {printable(spec)}: its centre seems to be in a corner (numpy.fft.fftshift moves it)")
    if _on_background(values):
        notes.append(f"kernel {printable(spec)}: its border is not 0: is it inverted, or is its background not black?")
    if abs(total - 1) > ROUNDED:
        notes.append(f"kernel {printable(spec)}: its sum is {total:g}; it is divided by it")
    return notes


def _on_background(values: Tensor) -> bool:  # (h, w)
    """Whether the border of a kernel is one number that is not 0, and the rest is not: boxes and Gaussians that are cut
    off have other borders."""
    if min(values.shape) < 3:
        return False
    inner, most = values[1:-1, 1:-1], float(values.abs().max())
    border = torch.cat([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
    level = float(border.median())
    alike = ((border - level).abs() <= ALIKE * most).double().mean()
    return level > ALIKE * most and float(alike) > 0.75 and float((inner - level).abs().max()) > 0.1 * most


def _spread(values: Tensor) -> float:  # (h, w)
    """Return the sum of |k| r^2, r the distance from the centre of a kernel, in pixels."""
    rows, columns = (torch.arange(n) - n // 2 for n in values.shape)
    return float((values.abs() * (rows.square()[:, None] + columns.square())).sum())


def is_file(spec: str) -> bool:
    """Tell whether a kernel is a file of the user."""
    return spec.partition(":")[0] not in ("gaussian", "levin")


def kernel_file(spec: str, data_root: Path) -> Path | None:
    """Return the file that holds a kernel; None where it is computed. Raises KernelError where there is none."""
    return None if spec.partition(":")[0] == "gaussian" else _place(spec, data_root)[0]


def _place(spec: str, data_root: Path) -> tuple[Path, str]:
    """Return the file that holds a kernel, and its key there."""
    if spec.startswith("levin:"):
        if spec.removeprefix("levin:") not in ("all", *map(str, range(1, LEVIN + 1))):
            raise KernelError(f"there is no kernel {printable(spec)}, but levin:1 ... levin:{LEVIN}")
        spec = f"{data_root / 'kernels' / 'Levin09.npz'}:k{spec.removeprefix('levin:')}"
    try:
        return find_array(spec)
    except ArrayError:
        raise KernelError(f"there is no kernel file {printable(spec)}") from None


def _values(spec: str, data_root: Path) -> Tensor:  # -> (h, w)
    """Read the numbers of a kernel as they are, in float64. Raises KernelError."""
    file, key = _place(spec, data_root)
    try:
        values = read_array(f"{file}:{key}" if key else str(file), LARGEST) if is_array(file) else _grey(file, key)
    except (ArrayError, ImageError) as error:
        raise KernelError(f"cannot read a kernel: {error}") from None
    if values.ndim != 2 or values.dtype.kind not in "buif":
        what = f"{values.shape} {values.dtype}"
        raise KernelError(f"{printable(spec)} is not a blur kernel: not a 2-D array of real numbers, but {what}")
    return torch.from_numpy(values.astype(np.float64))


def _grey(file: Path, key: str) -> np.ndarray:  # -> (h, w)
    """Return the numbers of an image. Raises ImageError and KernelError."""
    if file.suffix.lower() not in SUFFIXES:
        raise KernelError(
            f"{printable(file)} is no kernel: arrays are {', '.join(ARRAYS)}, images {', '.join(SUFFIXES)}"
        )
    pixels = read_pixels(file)
    if key:
        raise KernelError(f"{printable(file)} holds one image, without a name ({printable(key)})")
    if pixels.shape[2] in (2, 4):
        raise KernelError(f"{printable(file)}: transparency has no meaning in a kernel")
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels @ GREY
