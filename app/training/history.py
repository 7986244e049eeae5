"""history.safetensors: the natural parameters of a run at steps that grow like a geometric series, and at the last.

Steps 0, 1, 2, ..., 7, 8, 9, 11, 12, 14, ...: about log(steps) / log(RATIO) snapshots, so the file stays small however
long the run is. Which steps are kept depends on nothing but the step, so an interrupted and resumed run leaves the
same file as one that was not interrupted.
"""

import math
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from app.files import write_atomically
from app.training.checkpoint import RunError
from regularizers import Regularizer

RATIO = 1.15
# Natural parameters; a regularizer has some of them.
NAMES = ("filters", "weights", "smoothings", "amplitude", "contrast")


def begin(folder: Path, step: int, regularizer: Regularizer) -> None:
    """Prepare the history for a run that goes on at `step`: without later snapshots, and without one that was kept only
    as the last."""
    file = _file(folder)
    if step and file.exists():
        history = read(folder)
        kept = torch.tensor([s <= step and due(s) for s in history["steps"].tolist()])
        _write(file, {name: values[kept] for name, values in history.items()})
    elif step == 0:
        file.unlink(missing_ok=True)
        note(folder, 0, regularizer, last=False)


def note(folder: Path, step: int, regularizer: Regularizer, last: bool) -> None:
    """Keep the parameters after `step` steps, if this is one of the steps to keep."""
    if not (last or due(step)):
        return
    functional, file = regularizer.frozen(), _file(folder)
    now = {name: getattr(functional, name).cpu()[None] for name in NAMES if hasattr(functional, name)}
    now["steps"] = torch.tensor([step])
    if file.exists():
        past = read(folder)
        now = {name: torch.cat([past[name], value]) for name, value in now.items()}
    _write(file, now)


def due(step: int) -> bool:
    """Tell whether a step is kept: 0, or round(RATIO^j) for a whole j."""
    if step == 0:
        return True
    nearest = round(math.log(step) / math.log(RATIO))
    return any(round(RATIO**j) == step for j in (nearest - 1, nearest, nearest + 1))


def exists(folder: Path) -> bool:
    """Tell whether a run has a history."""
    return _file(folder).is_file()


def read(folder: Path) -> dict[str, Tensor]:
    """Return "steps" (T,), "weights" (T, K, 1, 1), "smoothings" (T, K, 1, 1) and, if any, "filters" (T, K, C, s, s).

    Of a rescaled regularizer: "steps", "amplitude" and "contrast", (T,) each.

    Raises RunError where there is none.
    """
    file = _file(folder)
    if not file.is_file():
        raise RunError(f"{folder} has no history of its parameters ({file.name} is missing): train it again to get one")
    try:
        history = safetensors.torch.load_file(file)
        return {name: history[name] for name in ("steps", *(n for n in NAMES if n in history))}
    except (SafetensorError, OSError, KeyError) as error:
        raise RunError(f"{file} is damaged: {error}") from None


def _file(folder: Path) -> Path:
    return folder / "history.safetensors"


def _write(file: Path, history: dict[str, Tensor]) -> None:
    write_atomically(file, safetensors.torch.save({name: t.contiguous() for name, t in history.items()}))
