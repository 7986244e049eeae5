"""What a run is made of, by its contents: {"data.images": {"train/12003.jpg": SHA-256, ...}, "problem.kernel": ...}.

Names are relative to the folder that holds all files of a key, so that they are the same under another data root. Of
more than SPELLED files a checkpoint records one fingerprint, that of their list, as {"": SHA-256}. The list itself, as
sha256sum writes it, lies beside the checkpoint to say which files changed; a run goes on without it, too.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app.files import fingerprint, write_own
from app.models.files import KERNEL, ModelError, find_model
from app.settings.options import Config
from app.settings.tasks import DRAWN, Deblur, Inpaint, Mri, Problem, Tomography
from datasets.arrays import array_file
from datasets.blur_kernels import kernel_file
from datasets.image_sets import names_of
from datasets.index import digests, facts_of
from datasets.masks import mask_files
from datasets.pairs import partners
from datasets.patches import Patches

Inputs = dict[str, dict[str, str]]
SHOWN = 5  # changes that an error names
SPELLED = 1000  # files of a key


def inputs(config: Config, patches: Patches, held_out: Sequence[Path], data_root: Path) -> Inputs:
    """Return the fingerprints of training and validation images, of a kernel's file and of the model that training
    starts from. Raises OSError."""
    problem = config.problem
    kernel = kernel_file(problem.kernel, data_root) if isinstance(problem, Deblur) else None
    try:
        start = [find_model(config.regularizer.start)] if config.regularizer.start else []
    except ModelError:
        start = []  # it is needed no more
    images = [source for source in patches.source if isinstance(source, Path)]
    found = {
        "data.images": _named(images, digests(patches.facts)),
        "data.validation": _named(held_out, digests(facts_of(held_out))),
    }
    files = {KERNEL: [kernel] if kernel else [], **_of_operator(problem), "regularizer.start": start}
    if config.data.measured:
        files = {"data.measured": partners(images, config.data.measured), **files}
    found |= {key: _named(paths, [fingerprint(path) for path in paths]) for key, paths in files.items()}
    return {key: fingerprints for key, fingerprints in found.items() if fingerprints}


def _of_operator(problem: Problem) -> dict[str, list[Path]]:
    """The files of masks, coil maps and angles, by their keys."""
    match problem:
        case Inpaint() if problem.mask:
            return {"problem.mask": mask_files(problem.mask)}
        case Mri():
            specs = {"mask": "" if problem.mask in DRAWN else problem.mask, "coil_maps": problem.coil_maps}
        case Tomography():
            specs = {"angle_file": problem.angle_file}
        case _:
            return {}
    return {f"problem.{key}": [array_file(spec)] for key, spec in specs.items() if spec}


def recorded(found: Inputs) -> Inputs:
    """Return what a checkpoint records of fingerprints: of long lists one."""
    return {key: _short(files) if len(files) > SPELLED else files for key, files in found.items()}


def write_lists(folder: Path, found: Inputs) -> None:
    """Write the lists that a checkpoint in this folder does not spell out. Raises OSError."""
    for key, files in found.items():
        if len(files) > SPELLED:
            write_own(folder / f"{key}.sha256", _list(files))


def changes(before: Inputs, now: Inputs, folder: Path) -> str:
    """Write what is other than was recorded, such as "in data.images b.png changed"; "" where nothing is. folder: holds
    the lists. What was not recorded is as it was, and so is a start that is gone: the run does not need it any more."""
    keys = [key for key in before if key in now or key != "regularizer.start"]
    found = [change for key in keys for change in _of_key(key, before[key], now.get(key, {}), folder)]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def _of_key(key: str, before: dict[str, str], now: dict[str, str], folder: Path) -> list[str]:
    if "" not in before:
        return _changes(key, before, now)
    if before == _short(now):
        return []
    with suppress(OSError, ValueError):
        listed = (folder / f"{key}.sha256").read_bytes()
        files = {name: digest for digest, name in (line.split("  ", 1) for line in listed.decode().splitlines())}
        if _short(files) == before:
            return _changes(key, files, now)
    return [f"files of {key} changed"]


def _changes(key: str, before: dict[str, str], now: dict[str, str]) -> list[str]:
    verbs = {(True, True): "changed", (True, False): "was removed", (False, True): "was added"}
    names = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
    return [f"{name} of {key} {verbs[name in before, name in now]}" for name in names]


def _list(files: dict[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in files.items()).encode()


def _short(files: dict[str, str]) -> dict[str, str]:
    return {"": hashlib.sha256(_list(files)).hexdigest()}


def _named(paths: Sequence[Path], fingerprints: list[str]) -> dict[str, str]:
    return dict(zip(names_of(paths), fingerprints, strict=True))
