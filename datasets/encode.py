"""Float images -> bytes of image files."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from torch import Tensor

from datasets.images import Picture


def encode_image(image: Tensor, suffix: str, depth: int, profile: bytes = b"") -> bytes:  # (1 or 3, H, W)
    """Return a .png or .tif of depth 8 or 16, its values clipped to [0, 1]; or a .tif or .npy of float32, as the values
    are. profile: of the colours (ICC)."""
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, pixels.astype(np.float32))
    elif suffix == ".tif":
        import tifffile

        kind = "rgb" if pixels.ndim == 3 else "minisblack"
        numbers = {8: np.uint8, 16: np.uint16, 32: np.float32}[depth]
        stored = pixels if depth == 32 else _levels(pixels, 2**depth - 1)
        tifffile.imwrite(file, stored.astype(numbers), photometric=kind, metadata=None, iccprofile=profile or None)
    elif suffix == ".png" and depth == 8:
        Image.fromarray(_levels(pixels, 255).astype(np.uint8)).save(file, "PNG", icc_profile=profile or None)
    elif suffix == ".png" and depth == 16:
        return _deep_png(_levels(pixels, 65535).astype(">u2"), profile)
    else:
        raise AssertionError(f"no {suffix} files of {depth} bits")
    return file.getvalue()


def encode_like(picture: Picture, image: Tensor) -> bytes:  # (1 or 3, H, W)
    """Return the file of an image, in the depth and on the scale of a picture that was read."""
    low, high = picture.limits
    return encode_image(low + (high - low) * image, picture.suffix, picture.depth, picture.profile)


def _levels(pixels: np.ndarray, white: int) -> np.ndarray:
    return (pixels.clip(0, 1) * white).round()


def _deep_png(pixels: np.ndarray, profile: bytes) -> bytes:  # (H, W) or (H, W, 3), big endian
    """Write a 16-bit PNG, which Pillow can do in grey only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each row is stored as it is
    colours = chunk(b"iCCP", b"ICC\0\0" + zlib.compress(profile)) if profile else b""
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colours + data
