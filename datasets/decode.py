"""Bytes of image files -> arrays (H, W, channels), upright, as Pillow and tifffile define them and in full depth.

Pillow decodes PNG, JPEG, BMP and TIFF of up to 8 bits. It would reduce deeper colour to 8 bits: torchvision decodes
16-bit PNG, and tifffile deeper TIFF (Pillow where it is grey and tifffile lacks the compression). What none of them
keeps exactly is refused by name.
"""

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from threading import Lock

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # no other plugin of Pillow sees a file: some start programs
PIXELS = 2**27  # 11585 x 11585; a solve keeps some twenty float32 images of this size, 11 GB
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112  # EXIF and TIFF
MODES = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA"}


class NotReadError(ValueError):
    """An image is of a kind that is not read; the message says which, and what to do."""


def decode_image(data: bytes) -> np.ndarray:  # -> (H, W, 1 to 4)
    """Return grey or RGB pixels, alpha last: uint8 or uint16, of TIFF also other real types.

    Of a JPEG that holds several pictures the first is the photograph. Any thread may call this. Raises NotReadError; on
    damaged files the libraries raise errors of many kinds.
    """
    with ExitStack() as quiet:
        quiet.enter_context(WORDLESS)
        if data.startswith(TIFF):
            quiet.enter_context(MUTE)
            pixels = _decode_tiff(data)
        else:
            pixels = _decode_with_pillow(data)
    return pixels[..., None] if pixels.ndim == 2 else pixels


class _Shared:
    """A change of the whole process that the first of its users makes and the last one takes back, on any threads."""

    def __init__(self, change: Callable[[], AbstractContextManager[None]]) -> None:
        self._change, self._users, self._lock = change, 0, Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._active = self._change()
                self._active.__enter__()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._active.__exit__(None, None, None)


@contextmanager
def _wordless() -> Iterator[None]:
    """Keep warnings, and the log lines of the two libraries, from the terminal: what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("PIL", "tifffile")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _mute() -> Iterator[None]:
    """Keep what libtiff and libpng themselves write from the terminal, and all else that is written to stderr."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


WORDLESS, MUTE = _Shared(_wordless), _Shared(_mute)


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:  # whose own words hold an address in memory
        raise ValueError(f"cannot identify it as {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise NotReadError(f"more than {PIXELS} pixels are not read; cut it into parts") from None
    _limit(*image.size)
    return image


def _limit(width: int, height: int) -> None:
    if width * height > PIXELS:
        raise NotReadError(f"{width} x {height} pixels are more than the {PIXELS} that are read; cut it into parts")


def _decode_with_pillow(data: bytes) -> np.ndarray:
    with _open(data) as image:
        image.load()
        if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
            raise NotReadError("animated PNG is not read; save a single image")
        deep = image.format == "PNG" and data[24] == 16
        pixels = _deep_png(data, image) if deep else _pixels(image)
        return upright(pixels, _orientation(image))


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata, of a picture that is whole
        return 1


def _pixels(image: Image.Image) -> np.ndarray:
    mode = MODES.get(image.mode, image.mode)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise NotReadError(f"{image.mode} colours are not read; save it as RGB")
    if "transparency" in image.info:
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    return np.asarray(image if mode == image.mode else image.convert(mode))


def _deep_png(data: bytes, image: Image.Image) -> np.ndarray:
    """Decode a 16-bit PNG; where one of its values means transparent, alpha is added."""
    from torchvision.io import ImageReadMode, decode_png

    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    with MUTE:
        pixels = decode_png(raw, mode=ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    if (key := image.info.get("transparency")) is None:
        return pixels
    opaque = (pixels != np.asarray(key)).any(-1, keepdims=True)
    return np.concatenate([pixels, np.where(opaque, 65535, 0).astype(np.uint16)], -1)


def _decode_tiff(data: bytes) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = [page for n, page in enumerate(file.pages) if n == 0 or not page.aspage().is_reduced]
        page, series = pages[0].aspage(), file.series[0]
        if len(pages) > 1 or set(series.axes) - set("YXS"):
            what = f"{len(pages)} pages, {series.axes} {series.shape}"
            raise NotReadError(f"several images in one TIFF ({what}) are not read; save them one by one")
        _limit(page.imagewidth, page.imagelength)
        if page.photometric in (0, 1) and page.samplesperpixel > 1 and page.extrasamples not in ((1,), (2,)):
            raise NotReadError(f"{page.samplesperpixel} channels that are no colours are not read; save one by one")
        bits, unsigned = np.max(page.bitspersample), page.sampleformat in (1, 4)
        if bits <= 8 and unsigned:
            return _decode_with_pillow(data)
        if page.photometric not in (0, 1, 2) or bits not in (8, 16, 32, 64) or 1 in page.extrasamples:
            kind = getattr(page.photometric, "name", page.photometric)
            alpha = " with premultiplied alpha" if 1 in page.extrasamples else ""
            raise NotReadError(f"{bits}-bit {kind}{alpha} is not read; save it as 16-bit grey or RGB")
        return _deep_tiff(data, page)


def _deep_tiff(data: bytes, page) -> np.ndarray:
    """Decode more than 8 bits, or other types than unsigned, with white as the largest value."""
    try:
        pixels = page.asarray()
        pixels = np.moveaxis(pixels, 0, -1) if page.axes.startswith("S") else pixels
        pixels = upright(pixels, page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1)
    except (ValueError, ImportError) as error:
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        image = _open(data)
        if image.mode not in ("I;16", "I;16B", "F"):
            name = getattr(page.compression, "name", page.compression)
            raise NotReadError(f"{page.dtype} in {name} compression is not read; save it uncompressed") from None
        pixels = np.asarray(image)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if pixels.ndim == 3:  # more channels than colours and alpha are no part of the picture
        pixels = pixels[..., : (3 if page.photometric == 2 else 1) + (page.extrasamples[:1] == (2,))]
    return np.iinfo(pixels.dtype).max - pixels if page.photometric == 0 and pixels.dtype.kind == "u" else pixels


def upright(pixels: np.ndarray, orientation: object) -> np.ndarray:  # (H, W, ...) -> (H, W, ...) or (W, H, ...)
    """Return pixels turned as the EXIF orientation, 1 to 8, says; any other value says nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels[:: -1 if down else 1, :: -1 if right else 1]


def decode_profile(data: bytes, channels: int) -> bytes:
    """Return the ICC profile of an image file with these contents, where it is one of so many channels."""
    with suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as image:  # libraries raise many kinds
        profile = image.info.get("icc_profile") or b""
        return profile if profile[16:20] == {1: b"GRAY", 3: b"RGB "}[channels] else b""
    return b""
