"""Image files are read as float tensors (C, H, W) on the scale [0, 1]: black is 0, white is 1."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from datasets.arrays import is_array, read_npy
from datasets.decode import NotReadError, decode_image, decode_profile
from datasets.files import in_short, printable, read_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

# 0.298936 R + 0.587043 G + 0.114021 B, rounded to 8 bit, reproduces the grey PNGs of BSD68 in circulation.
GREY = np.array([0.298936, 0.587043, 0.114021])

ROWS = 32  # of an image that are made grey together

Range = tuple[float, float]  # the values of black and white
Source = TypeVar("Source")
Found = TypeVar("Found")


class ImageError(ValueError):
    """An image is missing, unreadable or of the wrong kind; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image, and how a result is stored that keeps its depth."""

    image: Tensor  # (3 or 1, H, W)
    suffix: str  # .png; .tif or .npy of floats
    depth: int  # bits of each value
    limits: Range = (0, 1)  # what 0 and 1 were in a file of floats
    profile: bytes = b""  # ICC: what the numbers of a .png mean as colours


def read_image(path: Path, color: bool | None) -> Tensor:  # -> (3 or 1, H, W)
    """Read an image in colour or in grey, as it is where `color` is None. Raises ImageError, as read_picture does."""
    return read_picture(path, color).image


def read_compact(path: Path, color: bool) -> Tensor:  # -> (3 or 1, H, W)
    """Read an image in colour or in grey, as `compact` returns it. Raises ImageError."""
    pixels = read_pixels(path)
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3) and not is_array(path):
        _refuse_grey(pixels, path, color)
        levels = pixels if color or pixels.shape[2] == 1 else _grey_levels(pixels)
        return torch.from_numpy(np.array(levels.transpose(2, 0, 1), order="C"))
    return compact(as_picture(pixels, path, color, None).image)


def compact(image: Tensor) -> Tensor:  # (C, H, W) -> (C, H, W)
    """Return an image as uint8 where that keeps every value exactly, else as it is."""
    eight_bit = (image * 255).round().to(torch.uint8)
    return eight_bit if torch.equal(as_float(eight_bit), image) else image


def as_float(image: Tensor) -> Tensor:  # (C, H, W) -> (C, H, W)
    """Return the values of what `compact` returned."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def read_picture(path: Path, color: bool | None, limits: Range | None = None) -> Picture:
    """Read PNG, JPEG, TIFF or BMP, upright, or a .npy file. Raises ImageError for a file that cannot be read, and as
    `as_picture` does."""
    data = read_bytes(path)
    picture = as_picture(decode_pixels(data, path), path, color, limits)
    return replace(picture, profile=decode_profile(data, len(picture.image))) if picture.suffix == ".png" else picture


def as_picture(pixels: np.ndarray, path: Path, color: bool | None, limits: Range | None) -> Picture:
    """Return the picture of the pixels (H, W, 1 to 4) of a file; transparent parts are blended over white.

    A colour image that is read as grey is rounded to its own bit depth. limits: the values of black and white in arrays
    and TIFF of other types than 8 or 16 bits unsigned, which do not tell themselves. Raises ImageError without limits
    where they are needed, and for a grey image where colour is asked for.
    """
    _refuse_grey(pixels, path, color)
    array, to_grey = is_array(path), color is False
    if array or pixels.dtype not in (np.uint8, np.uint16):
        values = _scaled(path, pixels, limits)
        values = (values @ GREY)[..., None] if to_grey and values.shape[2] == 3 else values
        return Picture(image=_tensor(values), suffix=".npy" if array else ".tif", depth=32, limits=limits or (0, 1))
    peak = np.iinfo(pixels.dtype).max
    values = _over_white(pixels / peak)
    values = np.round((values @ GREY)[..., None] * peak) / peak if to_grey and values.shape[2] == 3 else values
    return Picture(image=_tensor(values), suffix=".png", depth=8 * pixels.dtype.itemsize)


def read_pixels(path: Path) -> np.ndarray:  # -> (H, W, 1 to 4)
    """Read the numbers of an image file, real and of any type; alpha is last. Raises ImageError."""
    return decode_pixels(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read the contents of an image file. Raises ImageError."""
    try:
        return read_file(path)
    except ValueError as error:
        raise ImageError(f"cannot read image {printable(path)}: {error}") from None


def decode_pixels(data: bytes, path: Path) -> np.ndarray:  # -> (H, W, 1 to 4)
    """Return the numbers of an image file with these contents. Raises ImageError."""
    try:
        pixels = read_npy(data) if path.suffix.lower() == ".npy" else decode_image(data)
    except NotReadError as error:
        raise ImageError(f"{printable(path)}: {error}") from None
    except Exception as error:  # the libraries raise many kinds on damaged files
        raise ImageError(f"{printable(path)} is not a readable image, or is truncated: {in_short(error)}") from None
    return as_pixels(pixels, path)


def as_pixels(pixels: np.ndarray, path: Path) -> np.ndarray:  # -> (H, W, 1 to 4)
    """Return the numbers of a file as pixels. Raises ImageError where they are none of a grey, RGB or RGBA image."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape or pixels.dtype.kind not in "buif":
        what = f"{pixels.shape} {pixels.dtype}"
        raise ImageError(f"{printable(path)}: not a grey, RGB or RGBA image of real numbers: {what}")
    return pixels


def read_all(sources: Iterable[Source], read: Callable[[Source], Found]) -> list[Found]:
    """Return what `read` returns of every image. Raises one ImageError that names all images of which it raises one."""
    found, errors = [], []
    for source in sources:
        try:
            found.append(read(source))
        except ImageError as error:
            errors.append(str(error))
    if len(set(errors)) > 1:
        errors = [f"{len(errors)} of {len(errors) + len(found)} images cannot be used:", *errors]
    if errors:
        raise ImageError("\n".join(dict.fromkeys(errors)))
    return found


def is_image_name(name: str) -> bool:
    """Return whether a file of this name in a folder is taken for an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """List the image files of a folder, sorted by name, hidden ones left out. Raises ImageError if there are none."""
    if not os.path.isdir(folder):
        reason = f"is not one of {', '.join(SUFFIXES)}" if os.path.exists(folder) else "does not exist"
        raise ImageError(f"there is no image folder {printable(folder)}: it {reason}")
    with os.scandir(folder) as there:  # which knows folders without asking for each file
        names = sorted(e.name for e in there if is_image_name(e.name) and not e.is_dir())
    paths = [folder / name for name in names]
    if not paths:
        raise ImageError(f"no images in {printable(folder)} (looked for {', '.join(SUFFIXES)})")
    return paths


def _refuse_grey(pixels: np.ndarray, path: Path, color: bool | None) -> None:
    if color and pixels.shape[2] < 3:
        raise ImageError(f"{printable(path)} is grey, and colour images are needed here (data.color = true)")


def _grey_levels(pixels: np.ndarray) -> np.ndarray:  # (H, W, 3) -> (H, W, 1), both uint8
    """What `as_picture` makes of colours, to the same rounding, a few rows at a time: float64 has 8 times the bytes."""
    grey = np.empty((*pixels.shape[:2], 1), np.uint8)
    for row in range(0, len(pixels), ROWS):
        block = pixels[row : row + ROWS] / 255
        grey[row : row + ROWS] = np.round((block @ GREY)[..., None] * 255)
    return grey


def _tensor(values: np.ndarray) -> Tensor:  # (H, W, C) -> (C, H, W)
    return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))


def _over_white(values: np.ndarray) -> np.ndarray:
    if values.shape[2] not in (2, 4):
        return values
    alpha = values[..., -1:]
    return values[..., :-1] * alpha + (1 - alpha)


def _scaled(path: Path, pixels: np.ndarray, limits: Range | None) -> np.ndarray:
    """Map black to 0 and white to 1; nothing is clipped. Raises ImageError."""
    if limits is None:
        raise ImageError(
            f"{printable(path)}: pixels are {pixels.dtype}, and which are black and white is not known; "
            f"`reconstruct` reads it with --range BLACK WHITE, or save it with 8 or 16 bits"
        )
    if pixels.shape[2] in (2, 4):
        raise ImageError(f"{printable(path)}: transparency of {pixels.dtype} pixels is not read")
    low, high = limits
    with np.errstate(over="ignore"):
        values = ((pixels.astype(np.float64) - low) / (high - low)).astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError(
            f"{printable(path)} holds NaN, infinite values, or some far outside the range {low:g}, {high:g}"
        )
    return values
