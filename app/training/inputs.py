"""What a run is made of, by its contents: {"data.images": {"train/12003.jpg": SHA-256, ...}, "problem.kernel": ...}.

Names are relative to the folder that holds all files of a key, so that they are the same under another data root.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from app.files import fingerprint
from app.models.files import KERNEL, ModelError, find_model
from app.settings.options import Config
from app.settings.tasks import DRAWN, Deblur, Inpaint, Mri, Problem, Tomography
from datasets.arrays import array_file
from datasets.blur_kernels import kernel_file
from datasets.image_sets import names_of
from datasets.masks import mask_files

Inputs = dict[str, dict[str, str]]
SHOWN = 5  # changes that an error names


def inputs(config: Config, images: Iterable[Path], held_out: Iterable[Path], data_root: Path) -> Inputs:
    """Return the fingerprints of training and validation images, of a kernel's file and of the model that training
    starts from. Raises OSError."""
    problem = config.problem
    kernel = kernel_file(problem.kernel, data_root) if isinstance(problem, Deblur) else None
    try:
        start = [find_model(config.regularizer.start)] if config.regularizer.start else []
    except ModelError:
        start = []  # it is needed no more
    files = {"data.images": list(images), "data.validation": list(held_out)}
    files |= {KERNEL: [kernel] if kernel else [], **_of_operator(problem), "regularizer.start": start}
    return {key: _fingerprints(paths) for key, paths in files.items() if paths}


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


def changes(before: Inputs, now: Inputs) -> str:
    """Write what is other than it was, such as "in data.images b.png changed"; "" where nothing is. What was not
    recorded is as it was, and so is a start that is gone: the run does not need it any more."""
    keys = [key for key in before if key in now or key != "regularizer.start"]
    found = [change for key in keys for change in _changes(key, before[key], now.get(key, {}))]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def _changes(key: str, before: dict[str, str], now: dict[str, str]) -> list[str]:
    verbs = {(True, True): "changed", (True, False): "was removed", (False, True): "was added"}
    names = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
    return [f"{name} of {key} {verbs[name in before, name in now]}" for name in names]


def _fingerprints(paths: Sequence[Path]) -> dict[str, str]:
    return {name: fingerprint(path) for name, path in zip(names_of(paths), paths, strict=True)}
