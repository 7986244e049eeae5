"""How alike an image and one of BSD68 are, whatever the name, format and size of its file.

Of a grey thumbnail of 32 x 32 pixels, c_ij are the low cosine coefficients times (i^2 + j^2)^(1/2). Of BSD68 their
signs b_ij are kept, 200 bits from which no picture can be drawn; alike is

    max over turns and flips of  |sum b_ij w_ij sign(c_ij)| / sum w_ij,    w_ij = min(|c_ij|, twice their median).

1 is a copy. Copies in other formats, grey, noisy, brighter, negative, turned, resized, without a few pixels at their
borders or cut to the central square are above ALIKE; smaller parts of an image are not found. `python -m
datasets.held_out DATA_ROOT` writes the bits and measures both sides of the limit.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images import GREY

HASHES = Path(__file__).with_name("bsd68.hashes")
ALIKE = 0.63  # copies of BSD68 are above 0.81, the other images of BSDS500 and scikit-image below 0.48

SIDE, FREQUENCIES, HIGHEST = 32, 16, 20  # i, j < FREQUENCIES, 0 < i + j <= HIGHEST
DOWN, ACROSS = np.mgrid[:FREQUENCIES, :FREQUENCIES]
USED = (DOWN + ACROSS > 0) & (DOWN + ACROSS <= HIGHEST)
COSINES = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * (np.arange(SIDE) + 0.5) / SIDE)


def likeness_of_pixels(pixels: np.ndarray) -> float:  # (H, W, 1 to 4)
    """Return how alike the numbers of an image file and an image of BSD68 are; alpha does not count."""
    colours = pixels[..., : 3 if pixels.shape[2] > 2 else 1]
    if pixels.dtype == np.uint8:
        return likeness(Image.fromarray(np.ascontiguousarray(colours[..., 0] if colours.shape[2] == 1 else colours)))
    grey = colours[..., 0] if colours.shape[2] == 1 else colours @ GREY
    return likeness(Image.fromarray(grey.astype(np.float32)))


def likeness(image: Image.Image) -> float:
    """Return how alike an image and one of BSD68 are, from 0 to 1."""
    return float(likenesses(image).max())


def likenesses(image: Image.Image) -> np.ndarray:  # -> (68,)
    """Return how alike an image and each of BSD68 are."""
    c = coefficients(image)
    sizes = np.abs(c[USED])
    c = np.sign(c) * np.minimum(np.abs(c), 2 * np.median(sizes))
    odd = (-1.0) ** np.arange(FREQUENCIES)  # a flip negates odd frequencies
    turned = [t * a * b for t in (c, c.T) for a in (1, odd) for b in (1, odd[:, None])]
    scores = np.abs(np.array([t[USED] for t in turned]) @ _hashes()) / max(np.abs(c[USED]).sum(), 1e-9)
    return scores.max(0).reshape(-1, len(windows(SIDE, SIDE))).max(1)


def coefficients(image: Image.Image) -> np.ndarray:  # -> (FREQUENCIES, FREQUENCIES)
    """Return c of an image."""
    grey = image if image.mode[0] in "IF" else image.convert("L")  # 16 bits and floats as they are
    small = np.asarray(grey.convert("F").resize((SIDE, SIDE), Image.Resampling.BOX), float)
    return COSINES @ small @ COSINES.T * np.hypot(DOWN, ACROSS)


def windows(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """List the parts of BSD68's images that are kept: all, without 5 % or 10 % at each border, the central square."""
    square = min(width, height)
    borders = [(round(s * width), round(s * height)) for s in (0, 0.05, 0.1)]
    borders.append(((width - square) // 2, (height - square) // 2))
    return [(x, y, width - x, height - y) for x, y in borders]


@cache
def _hashes() -> np.ndarray:  # -> (200, 68 x windows), of -1 and 1
    words = [word for line in HASHES.read_text("utf-8").splitlines() for word in line.split()[1:]]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(words)), np.uint8).reshape(len(words), -1), axis=1)
    return 2.0 * bits[:, : USED.sum()].T - 1
