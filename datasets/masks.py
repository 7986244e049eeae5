"""Masks (H, W) say what was measured of an image: 1 all, 0 nothing. Numbers between them are weights m: y = m x.

A mask is an array FILE[:KEY] or an image. An image is black and white: grey at the edges of a drawn mask, or of JPEG,
would be taken for weights. Transparent parts of an image are white, as everywhere.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.arrays import ARRAYS, ArrayError, array_file, find_array, is_array, read_array
from datasets.files import home_expanded, printable
from datasets.images import SUFFIXES, ImageError, read_image
from datasets.pairs import partners


class MaskError(ValueError):
    """A mask is missing, unusable or does not fit; the message names its file."""


def read_mask(spec: str) -> Tensor:  # -> (H, W)
    """Read a mask of numbers from 0 to 1, not all 0, as float32. Raises MaskError."""
    try:
        file, key = find_array(spec)
        values = read_array(spec) if key or is_array(file) else read_image(file, color=False)[0].numpy()
    except (ArrayError, ImageError) as error:
        raise MaskError(f"cannot read a mask: {error}") from None
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise MaskError(f"{printable(spec)} is no mask: not real numbers (H, W), but {values.shape} {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise MaskError(f"{printable(spec)} is no mask: its numbers are from {low:g} to {high:g}, not from 0 to 1")
    if high == 0:
        raise MaskError(f"{printable(spec)} is no mask: it is 0 everywhere, and nothing would be measured")
    grey = int(((values > 0) & (values < 1)).sum())
    if grey and not is_array(file):
        raise MaskError(f"{printable(spec)} is no mask: {grey} of its pixels are grey, neither black nor white")
    return torch.from_numpy(values.astype(np.float32))


def masks_of(spec: str, images: Mapping[int, Path]) -> Callable[[int, torch.Size], Tensor]:
    """Return (position of an image, its (H, W)) -> the mask (H, W) of a file or, of a folder, that with the image's
    name. It raises MaskError where a mask is missing or does not fit."""
    read = cache(read_mask)

    def of(image: int, grid: torch.Size) -> Tensor:
        if image not in images and home_expanded(spec).is_dir():
            raise MaskError(f"which masks of {printable(spec)} belong to which images is not known: name a file")
        own = mask_of(spec, images[image]) if image in images else spec
        mask = read(own)
        if mask.shape != tuple(grid):
            sizes = [f"{w} x {h}" for h, w in (mask.shape, grid)]
            raise MaskError(f"the mask {printable(own)} of {sizes[0]} pixels does not fit an image of {sizes[1]}")
        return mask

    return of


def mask_of(spec: str, image: Path) -> str:
    """Return the mask of an image: the one file, or that of the same name in a folder. Raises MaskError."""
    if not home_expanded(spec).is_dir():
        return spec
    try:
        return str(partners([image], spec, "mask")[0])
    except ImageError as error:
        raise MaskError(str(error)) from None


def mask_files(spec: str) -> list[Path]:
    """List the files of a mask, or of a folder of masks, sorted by name. Raises MaskError where there is none."""
    folder = home_expanded(spec)
    if folder.is_dir():
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in (*SUFFIXES, *ARRAYS) and p.name[0] != ".")
    try:
        return [array_file(spec)]
    except ArrayError as error:
        raise MaskError(f"cannot read a mask: {error}") from None
