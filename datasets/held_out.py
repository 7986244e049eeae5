"""The guard of BSD68, on which results are reported and from which nothing may be learned.

Images are recognised by what they show (likeness.py). The command

    python -m datasets.held_out DATA_ROOT

writes the bits of BSD68 to bsd68.hashes, and prints how alike copies and the other images of BSDS500 are.
"""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.image_sets import ImageSet, find_images
from datasets.images import ImageError
from datasets.index import facts_of
from datasets.likeness import ALIKE, HASHES, USED, coefficients, likenesses, windows


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
    """List the paths that are images of BSD68, whatever their names, formats and sizes; what cannot be read is none,
    and reading it will say why."""
    paths = list(paths)
    return [path for path, fact in zip(paths, facts_of(paths), strict=True) if fact["alike"] > ALIKE]


def _line(path: Path) -> str:
    """The name of an image and the bits of its parts."""
    with Image.open(path) as image:
        parts = [coefficients(image.crop(box))[USED] for box in windows(*image.size)]
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
    yield image.crop(windows(w, h)[-1]).resize((256, 256))


def main(data_root: Path) -> None:
    """Write the bits of BSD68, and print how alike its copies and all other images are."""
    reported = find_images("bsds500:bsd68", data_root, True).paths
    HASHES.write_text("".join(_line(path) + "\n" for path in reported), "utf-8")
    least = min(likenesses(copy)[n] for n, p in enumerate(reported) for copy in copies(Image.open(p)))
    others = [p for s in ("bsds500:train+test+val32", "builtin") for p in find_images(s, data_root, False).paths]
    most = facts_of(others)["alike"].max()
    print(f"copies of BSD68: at least {least:.3f}; {len(others)} other images: at most {most:.3f}; limit {ALIKE}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
