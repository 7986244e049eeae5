"""The guard of BSD68, on which results are reported and from which nothing may be learned."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from datasets.decode import image_size
from datasets.fetch import read_manifest
from datasets.files import read_file
from datasets.image_sets import ImageSet, bsd68_ids, find_images
from datasets.images import ImageError

SIZES = ((481, 321), (321, 481))


def images_to_learn_from(purpose: str, spec: str, data_root: Path, color: bool) -> ImageSet:
    """Find the images to train, validate or tune on. Raises ImageError where one of them is of BSD68."""
    found = find_images(spec, data_root, color)
    if reported := of_bsd68(found.paths):
        raise ImageError(
            f"{purpose} = {spec} holds {len(reported)} images of BSD68 ({reported[0].name}, ...), on which results are "
            f"reported: train on bsds500:train+test, validate on bsds500:val32"
        )
    return found


def of_bsd68(paths: Iterable[Path]) -> list[Path]:
    """List the paths that are images of BSD68.

    They have the same bytes under any name, or the same name and size, as copies in other formats have.
    """
    ids, manifest = set(bsd68_ids()), read_manifest()
    digests = {manifest[f"val/{name}.jpg"] for name in ids}
    return [p for p in paths if _digest(p) in digests or (p.stem in ids and _size(p) in SIZES)]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except ValueError:
        return ""  # reading it will say what is wrong


def _size(path: Path) -> tuple[int, int] | None:  # (W, H)
    try:
        return image_size(read_file(path))
    except Exception:  # of many kinds on damaged files
        return None  # reading it will say what is wrong
