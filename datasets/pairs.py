"""Pairs of files in two folders: a clean image and what was measured of it have the same name, without the suffix."""

from collections.abc import Sequence
from pathlib import Path

from datasets.arrays import ARRAYS
from datasets.files import home_expanded, printable
from datasets.images import SUFFIXES, ImageError


def partners(images: Sequence[Path], folder: str, kind: str = "measurement") -> list[Path]:
    """Return the file of the same name of every image, from a folder of images or arrays, or from the one file that is
    named instead. kind: what the files are. Raises ImageError where one lacks a partner or has several."""
    found = home_expanded(folder)
    if len(images) == 1 and found.is_file():
        return [found]
    if not found.is_dir():
        raise ImageError(f"there is no folder {printable(folder)} of {kind}s")
    named: dict[str, list[Path]] = {}
    for path in sorted(found.iterdir()):
        if path.suffix.lower() in (*SUFFIXES, *ARRAYS) and not path.name.startswith("."):
            named.setdefault(path.stem, []).append(path)
    for image in images:
        if len(own := named.get(image.stem, [])) != 1:
            count = f"{len(own)} {kind}s" if own else f"no {kind}"
            raise ImageError(f"{printable(folder)} has {count} for the image {printable(image.name)}")
    stems = [image.stem for image in images]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise ImageError(f"several images are called {printable(twice)}: which of them {printable(folder)} means?")
    return [named[stem][0] for stem in stems]
