"""Blur kernels (h, w) are nonnegative and have the sum 1."""

import io
import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.decode import read_npy
from datasets.files import home_expanded, in_short, printable, read_file
from datasets.images import GREY, ImageError, read_pixels
from datasets.matlab import read_mat

LEVIN = 8  # kernels of Levin et al. (CVPR 2009), camera shake
LARGEST = 2**27  # bytes of a kernel: 4096 x 4096 in float64


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
    """Read `levin:N` (data_root/kernels/Levin09.npz, key kN), FILE.npz:KEY, FILE.mat:KEY (KEY may be left out where the
    file holds one array), a .npy file or an image, as float64 with sum 1. Raises KernelError."""
    file, key = _place(spec, data_root)
    try:
        return _normalized(_values(file, key))
    except ImageError as error:
        raise KernelError(str(error)) from None
    except KernelError as error:
        raise KernelError(f"{printable(spec)} is not a blur kernel: {error}") from None
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        raise KernelError(f"cannot read a kernel from {printable(file)}: {in_short(error)}") from None


def is_file(spec: str) -> bool:
    """Tell whether a kernel is a file of the user."""
    return spec.partition(":")[0] not in ("gaussian", "levin")


def kernel_file(spec: str, data_root: Path) -> Path | None:
    """Return the file that holds a kernel; None where it is computed. Raises KernelError where there is none."""
    return None if spec.startswith("gaussian") else _place(spec, data_root)[0]


def _place(spec: str, data_root: Path) -> tuple[Path, str]:
    """Return the file that holds a kernel, and its key there."""
    if spec.startswith("levin:"):
        return data_root / "kernels" / "Levin09.npz", "k" + spec.removeprefix("levin:")
    return _split(spec)


def _split(spec: str) -> tuple[Path, str]:
    """Split FILE[:KEY], of which both may hold colons: the longest FILE that exists, or that numpy.savez made of this
    name."""
    parts = spec.split(":")
    for n in range(len(parts), 0, -1):
        for end in ("", ".npz"):
            file = home_expanded(":".join(parts[:n]) + end)
            if os.path.exists(file):  # unlike Path.exists, also of names that no file can have
                return file, ":".join(parts[n:])
    raise KernelError(f"there is no kernel file {printable(spec)}")


def _values(file: Path, key: str) -> np.ndarray:
    """Read the numbers of a file as they are. Raises KernelError, ImageError and what libraries raise."""
    suffix = file.suffix.lower()
    if suffix == ".npz":
        return read_npy(_member(read_file(file), key))
    if suffix == ".mat":
        arrays = read_mat(read_file(file), LARGEST)
        return np.asarray(arrays[_chosen(key, arrays)])  # of None an object, which is no kernel
    pixels = read_pixels(file)
    if key:
        raise KernelError(f"{suffix} files hold one array, without a name ({printable(key)})")
    if pixels.shape[2] in (2, 4):
        raise KernelError("transparency has no meaning in a kernel")
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels @ GREY


def _member(data: bytes, key: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        name = _chosen(key, sizes)
        if sizes[name] > LARGEST:  # before anything is inflated
            raise KernelError(f"an array of {sizes[name]} bytes is larger than the {LARGEST} that are read")
        with archive.open(f"{name}.npy") as file:
            return file.read(LARGEST)


def _chosen(key: str, names: Collection[str]) -> str:
    """Return the key, or the only name where there is none. Raises KernelError."""
    if not key and len(names) == 1:
        return next(iter(names))
    if key not in names:
        wanted = f"there is no array {printable(key)}" if key else "which array"
        raise KernelError(f"{wanted}: it holds {printable(', '.join(names)) or 'none'}, write FILE:KEY")
    return key


def _normalized(values: np.ndarray) -> Tensor:  # -> (h, w)
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "buif":
        raise KernelError(f"it must be a 2-D array of real numbers, not {values.shape} {values.dtype}")
    kernel = torch.from_numpy(values.astype(np.float64))
    total = kernel.sum()
    if not total.isfinite() or kernel.min() < 0 or total <= 0:
        raise KernelError(f"it must be nonnegative and finite with a sum above 0, and its sum is {float(total):g}")
    return kernel / total
