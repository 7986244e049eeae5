"""The guard of BSD68, on which results are reported and from which nothing may be learned.

Images are recognised by what they show. Of a grey thumbnail of 32 x 32 pixels, c_ij are the low cosine coefficients
times (i^2 + j^2)^(1/2). Of BSD68 their signs b_ij are kept, 200 bits from which no picture can be drawn; alike is

    max over turns and flips of  |sum b_ij w_ij sign(c_ij)| / sum w_ij,    w_ij = min(|c_ij|, twice their median).

1 is a copy. Copies in other formats, grey, noisy, brighter, negative, turned, resized, without a few pixels at their
borders or cut to the central square are above ALIKE; smaller parts of an image are not found. The command

    python -m datasets.held_out DATA_ROOT

writes the bits to bsd68.hashes, and prints how alike copies and the other images of BSDS500 are.
"""

import io
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.decode import FORMATS
from datasets.image_sets import ImageSet, find_images
from datasets.images import ImageError, read_image

HASHES = Path(__file__).with_name("bsd68.hashes")
QUIET = [name for name in FORMATS if name != "TIFF"]  # whose library writes to the terminal: read_image reads it
ALIKE = 0.63  # copies of BSD68 are above 0.81, the other images of BSDS500 and scikit-image below 0.44

SIDE, FREQUENCIES, HIGHEST = 32, 16, 20  # i, j < FREQUENCIES, 0 < i + j <= HIGHEST
DOWN, ACROSS = np.mgrid[:FREQUENCIES, :FREQUENCIES]
USED = (DOWN + ACROSS > 0) & (DOWN + ACROSS <= HIGHEST)
COSINES = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * (np.arange(SIDE) + 0.5) / SIDE)


def images_to_learn_from(purpose: str, spec: str, data_root: Path, color: bool) -> ImageSet:
    """Find the images to train, validate or tune on. Raises ImageError where one of them is of BSD68."""
    found = find_images(spec, data_root, color)
    refuse_reported(purpose, spec, found.paths)
    return found


def refuse_reported(purpose: str, spec: str, paths: Sequence[Path]) -> None:
    """Raise ImageError where one of the images is of BSD68."""
    if reported := of_bsd68(paths):
        raise ImageError(
            f"{purpose} = {spec} holds {len(reported)} images of BSD68 ({reported[0].name}, ...), on which results are "
            f"reported: train on bsds500:train+test, validate on bsds500:val32"
        )


def of_bsd68(paths: Iterable[Path]) -> list[Path]:
    """List the paths that are images of BSD68, whatever their names, formats and sizes."""
    return [p for p in paths if p.is_file() and _likeness_of_file(p, p.stat().st_mtime_ns) > ALIKE]


@cache
def _likeness_of_file(path: Path, changed: int) -> float:
    """How alike a file and an image of BSD68 are; 0 where it cannot be read, and reading it will say why."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=QUIET) as image:
            image.draft("L", (2 * SIDE, 2 * SIDE))  # JPEG is decoded small
            return likeness(image)
    except Exception:  # of many kinds: what Pillow cannot open, others may
        try:
            return likeness(Image.fromarray(read_image(path, color=False)[0].numpy()))
        except ImageError:
            return 0.0


def likeness(image: Image.Image) -> float:
    """Return how alike an image and one of BSD68 are, from 0 to 1."""
    return float(_likenesses(image).max())


def _likenesses(image: Image.Image) -> np.ndarray:  # -> (68,)
    c = _coefficients(image)
    sizes = np.abs(c[USED])
    c = np.sign(c) * np.minimum(np.abs(c), 2 * np.median(sizes))
    odd = (-1.0) ** np.arange(FREQUENCIES)  # a flip negates odd frequencies
    turned = [t * a * b for t in (c, c.T) for a in (1, odd) for b in (1, odd[:, None])]
    scores = np.abs(np.array([t[USED] for t in turned]) @ _hashes()) / max(np.abs(c[USED]).sum(), 1e-9)
    return scores.max(0).reshape(-1, len(_windows(SIDE, SIDE))).max(1)


def _coefficients(image: Image.Image) -> np.ndarray:  # -> (FREQUENCIES, FREQUENCIES)
    grey = image if image.mode[0] in "IF" else image.convert("L")  # 16 bits and floats as they are
    small = np.asarray(grey.convert("F").resize((SIDE, SIDE), Image.Resampling.BOX), float)
    return COSINES @ small @ COSINES.T * np.hypot(DOWN, ACROSS)


def _windows(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """The parts of an image of BSD68 that are kept: all, without 5 % or 10 % at each border, the central square."""
    square = min(width, height)
    borders = [(round(s * width), round(s * height)) for s in (0, 0.05, 0.1)]
    borders.append(((width - square) // 2, (height - square) // 2))
    return [(x, y, width - x, height - y) for x, y in borders]


@cache
def _hashes() -> np.ndarray:  # -> (200, 68 x windows), of -1 and 1
    words = [word for line in HASHES.read_text("utf-8").splitlines() for word in line.split()[1:]]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(words)), np.uint8).reshape(len(words), -1), axis=1)
    return 2.0 * bits[:, : USED.sum()].T - 1


def _line(path: Path) -> str:
    """The name of an image and the bits of its parts."""
    with Image.open(path) as image:
        parts = [_coefficients(image.crop(box))[USED] for box in _windows(*image.size)]
    return " ".join([path.stem, *(np.packbits(part > 0).tobytes().hex() for part in parts)])


def copies(image: Image.Image) -> Iterator[Image.Image]:
    """Yield copies of an RGB image that must be recognised."""
    w, h = image.size
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    yield Image.open(file)
    yield image.convert("L").rotate(90, expand=True)
    yield image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((0, 0, w - 1, h - 1))
    yield image.crop((8, 8, w - 8, h - 8)).rotate(270, expand=True)
    yield image.crop((0, 0, w // 32 * 32, h // 32 * 32)).resize((w // 2, h // 2))
    yield image.resize((2 * w, 2 * h)).point([v // 2 + 99 for v in range(256)] * 3)
    yield image.resize((180, 180))
    yield image.crop(_windows(w, h)[-1]).resize((256, 256))


def main(data_root: Path) -> None:
    """Write the bits of BSD68, and print how alike its copies and all other images are."""
    reported = find_images("bsds500:bsd68", data_root, True).paths
    HASHES.write_text("".join(_line(path) + "\n" for path in reported), "utf-8")
    least = min(_likenesses(copy)[n] for n, p in enumerate(reported) for copy in copies(Image.open(p)))
    others = [p for s in ("bsds500:train+test+val32", "builtin") for p in find_images(s, data_root, False).paths]
    most = max(_likeness_of_file(p, 0) for p in others)
    print(f"copies of BSD68: at least {least:.3f}; {len(others)} other images: at most {most:.3f}; limit {ALIKE}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
