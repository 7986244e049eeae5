"""Named image sets and their splits.

    builtin    photographs that ship with scikit-image: no download
    bsds500    Berkeley Segmentation Data Set (Arbelaez et al., TPAMI 2011), 500 RGB photographs

BSD68, the usual denoising test set, is 68 of the 100 `val` images; `val32` are the other 32. Train on `train` + `test`,
choose on `val32`, report on `bsd68`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from datasets.files import home_expanded, printable
from datasets.images import SUFFIXES, ImageError, list_images
from datasets.random import SUBSET, generator

BUILTIN = {
    "train": (
        "astronaut.png", "brick.png", "coins.png", "grass.png", "gravel.png", "moon.png", "motorcycle_left.png",
        "rocket.jpg",
    ),
    "test": ("camera.png", "chelsea.png", "coffee.png"),
}  # fmt: skip
BUILTIN_COLOR = ("astronaut.png", "motorcycle_left.png", "rocket.jpg", "chelsea.png", "coffee.png")

BSDS500_SPLITS = ("train", "test", "val", "bsd68", "val32")
# The flat layout, the public archive's, and a root that is the set itself.
BSDS500_LAYOUTS = ("BSDS500", "BSDS500/data/images", "BSR/BSDS500/data/images", "data/images", ".")


@dataclass(frozen=True)
class ImageSet:
    """Image files and where they come from."""

    name: str  # as the user wrote it
    paths: tuple[Path, ...]


def find_images(spec: str, data_root: Path, color: bool) -> ImageSet:
    """Find the image files of `SET`, `SET:SPLIT`, `SET:SPLIT+SPLIT`, a folder or an image file. Raises ImageError.

    `SET` alone is every image of the set. `builtin` in colour leaves out its grey photographs. A .npy file is an image
    where it is named itself.
    """
    if not spec:  # a variable of a shell that is not set: not the folder one is in
        raise ImageError("the name of the images is empty")
    name, colon, splits = spec.partition(":")
    if name == "builtin":
        return ImageSet(spec, tuple(_builtin(_split_names(spec, splits, tuple(BUILTIN)), color)))
    if name == "bsds500":
        chosen = _split_names(spec, splits, BSDS500_SPLITS) if colon else ("train", "test", "val")
        return ImageSet(spec, tuple(p for split in chosen for p in _bsds500(data_root, split)))
    path = home_expanded(spec)
    there = os.path.exists(path)  # unlike Path.exists, also of names that no file can have
    if not there and "/" not in spec:
        raise ImageError(f"unknown image set {printable(spec)!r}: neither builtin, bsds500 nor a folder")
    if there and not path.is_dir() and path.suffix.lower() in (*SUFFIXES, ".npy"):
        return ImageSet(spec, (path,))
    return ImageSet(spec, tuple(list_images(path)))


def is_named(spec: str) -> bool:
    """Tell whether images are asked for by the name of a set, and not by a path."""
    return spec.partition(":")[0] in ("builtin", "bsds500")


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return what tells images apart, in tables and on terminals: their paths from the folder that holds them all."""
    folders = {parent: os.path.abspath(parent) for parent in {os.path.dirname(path) for path in paths}}
    common = os.path.commonpath(list(folders.values())) if folders else ""
    below = {parent: os.path.relpath(folder, common) for parent, folder in folders.items()}
    return [printable(os.path.normpath(os.path.join(below[os.path.dirname(p)], os.path.basename(p)))) for p in paths]


def subset(image_set: ImageSet, count: int) -> ImageSet:
    """Choose `count` of the images at random, but always the same ones; 0 means all.

    Each choice is within every larger one. Raises ImageError if there are fewer.
    """
    if count > len(image_set.paths):
        raise ImageError(f"data.count = {count}, but {image_set.name} has {len(image_set.paths)} images")
    if count == 0:
        return image_set
    order = torch.randperm(len(image_set.paths), generator=generator(0, SUBSET))
    return ImageSet(image_set.name, tuple(image_set.paths[i] for i in order[:count].tolist()))


def bsd68_ids() -> tuple[str, ...]:
    """Read the names of the images of BSD68."""
    return tuple((Path(__file__).parent / "bsd68.txt").read_text().split())


def bsds500_folder(data_root: Path) -> Path:
    """Find the folder that holds train/, test/ and val/ of BSDS500. Raises ImageError."""
    for layout in BSDS500_LAYOUTS:
        if all((data_root / layout / split).is_dir() for split in ("train", "test", "val")):
            return data_root / layout
    raise ImageError(
        f"BSDS500 is not under {data_root}: point --data-root or APP_DATA_ROOT to the folder that holds it, "
        f"or run: python -m app data fetch bsds500"
    )


def _split_names(spec: str, splits: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(splits.split("+")) if splits else known
    for name in names:
        if name not in known:
            raise ImageError(f"unknown split {name!r} in {spec!r}; splits are {', '.join(known)}")
    return names


def _builtin(splits: tuple[str, ...], color: bool) -> list[Path]:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [folder / f for split in splits for f in BUILTIN[split] if not color or f in BUILTIN_COLOR]


def _bsds500(data_root: Path, split: str) -> list[Path]:
    folder = bsds500_folder(data_root)
    if split not in ("bsd68", "val32"):
        return list_images(folder / split)
    ids = set(bsd68_ids())
    return [p for p in list_images(folder / "val") if (p.stem in ids) == (split == "bsd68")]


def overview(data_root: Path) -> str:
    """Write which image sets there are, and how many images each has."""
    lines = [f"builtin   photographs that ship with scikit-image, splits {', '.join(BUILTIN)}"]
    for split in BUILTIN:
        grey, color = (len(find_images(f"builtin:{split}", data_root, c).paths) for c in (False, True))
        lines.append(f"  builtin:{split:6} {grey} grey, {color} colour")
    lines.append("bsds500   Berkeley Segmentation Data Set, 481 x 321 RGB")
    try:
        lines.append(f"  in {bsds500_folder(data_root)}")
        sizes = {split: len(find_images(f"bsds500:{split}", data_root, True).paths) for split in BSDS500_SPLITS}
        lines += [f"  bsds500:{split:6} {size}" for split, size in sizes.items()]
    except ImageError as error:
        lines.append(f"  {error}")
    return "\n".join([*lines, "FOLDER    any folder of PNG, JPEG, TIFF or BMP images; IMAGE, a single file"])
