"""Image files are read to and written from float tensors (C, H, W) in [0, 1]."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

# 0.298936 R + 0.587043 G + 0.114021 B, rounded to 8 bit, reproduces the grey PNGs of BSD68 in circulation.
GREY = np.array([0.298936, 0.587043, 0.114021])


class ImageError(ValueError):
    """An image is missing, unreadable or of the wrong kind; the message names it."""


def read_image(path: Path, color: bool) -> Tensor:  # -> (3 or 1, H, W)
    """Read an 8- or 16-bit PNG, JPEG, TIFF or BMP; grey, RGB, or either with alpha (blended over white).

    A colour image that is read as grey is rounded to its own bit depth. Raises ImageError for a file that cannot be
    read, and for a grey image where colour is asked for.
    """
    pixels = _decode(path)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path}: pixels are {pixels.dtype}; 8- and 16-bit unsigned images can be read")
    peak = np.iinfo(pixels.dtype).max
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise ImageError(f"{path}: not a single grey, RGB or RGBA image (shape {pixels.shape})")
    values = pixels / peak
    if pixels.shape[2] in (2, 4):
        alpha = values[..., -1:]
        values = values[..., :-1] * alpha + (1 - alpha)
    if color and values.shape[2] == 1:
        raise ImageError(f"{path} is grey, and colour images are needed here (data.color = true)")
    if not color and values.shape[2] == 3:
        values = np.round((values @ GREY)[..., None] * peak) / peak
    return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))


def write_image(path: Path, image: Tensor) -> None:  # (1 or 3, H, W)
    """Write an 8-bit image of the values clipped to [0, 1]; the suffix chooses the format."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels).save(path)


def list_images(folder: Path) -> list[Path]:
    """List the image files of a folder, sorted by name. Raises ImageError if there are none."""
    if not folder.is_dir():
        raise ImageError(f"there is no image folder {folder}")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ImageError(f"no images in {folder} (looked for {', '.join(SUFFIXES)})")
    return paths


def _decode(path: Path) -> np.ndarray:  # -> (H, W) or (H, W, channels)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read image {path}: {error.strerror}") from None
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _decode_tiff(data)
        if data[:4] == b"\x89PNG" and data[24:25] == b"\x10":
            return _decode_deep_png(data)
        with Image.open(io.BytesIO(data)) as image:
            if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
            elif image.mode == "1":
                image = image.convert("L")
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, RuntimeError) as error:
        raise ImageError(f"{path} is not a readable image, or is truncated: {error}") from None


def _decode_tiff(data: bytes) -> np.ndarray:
    import tifffile

    try:
        return tifffile.imread(io.BytesIO(data))
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise ValueError(str(error)) from None


def _decode_deep_png(data: bytes) -> np.ndarray:
    """Decode a 16-bit PNG; Pillow would reduce RGB ones to 8 bit."""
    from torchvision.io import ImageReadMode, decode_png

    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_png(raw, mode=ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
