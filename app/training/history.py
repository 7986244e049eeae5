"""history.safetensors: the natural parameters of a run at steps that grow like a geometric series, and at the last.

Steps 0, 1, 2, ..., 7, 8, 9, 11, 12, 14, ...: about log(steps) / log(RATIO) snapshots, so the file stays small however
long the run is. Which steps are kept depends on nothing but the step, so an interrupted and resumed run leaves the
same file as one that was not interrupted.
"""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from app.files import write_own
from app.models.sealed import read as read_sealed
from app.models.sealed import sealed
from app.training.checkpoint import RunError
from regularizers import Regularizer

RATIO = 1.15
# Natural parameters; a regularizer has some of them.
NAMES = ("filters", "weights", "smoothings", "amplitude", "contrast")

History = dict[str, Tensor]  # what `read` returns


def until(history: History, step: int) -> History:
    """Return the snapshots up to a step (..., T), without one that was kept only as the last."""
    kept = torch.tensor([s <= step and due(s) for s in history["steps"].tolist()] if history else [])
    return {name: values[kept] for name, values in history.items()}


def noted(history: History, step: int, regularizer: Regularizer, last: bool) -> History:
    """Return the history with the parameters after `step` steps (T, ...), if this is one of the steps to keep."""
    if not (last or due(step)) or (history and step in history["steps"]):
        return history
    functional = regularizer.frozen()
    now = {name: getattr(functional, name).cpu()[None] for name in NAMES if hasattr(functional, name)}
    now["steps"] = torch.tensor([step])
    return {name: torch.cat([history[name], value]) if history else value for name, value in now.items()}


def due(step: int) -> bool:
    """Tell whether a step is kept: 0, or round(RATIO^j) for a whole j."""
    if step == 0:
        return True
    nearest = round(math.log(step) / math.log(RATIO))
    return any(round(RATIO**j) == step for j in (nearest - 1, nearest, nearest + 1))


def exists(folder: Path) -> bool:
    """Tell whether a run has a history."""
    return _file(folder).is_file()


def write(folder: Path, history: History) -> None:
    """Write the file of a run (T, ...), if there is anything to write."""
    if history:
        write_own(_file(folder), sealed(history, {}))


def read(folder: Path) -> History:
    """Return "steps" (T,), "weights" (T, K, 1, 1), "smoothings" (T, K, 1, 1) and, if any, "filters" (T, K, C, s, s).

    Of a rescaled regularizer: "steps", "amplitude" and "contrast", (T,) each.

    Raises RunError where there is none.
    """
    file = _file(folder)
    if not file.is_file():
        raise RunError(f"{folder} has no history of its parameters ({file.name} is missing): train it again to get one")
    try:
        _, history = read_sealed(file)
        return {name: history[name] for name in ("steps", *(n for n in NAMES if n in history))}
    except (SafetensorError, OSError, KeyError) as error:
        raise RunError(f"{file} is damaged: {error}") from None


def _file(folder: Path) -> Path:
    return folder / "history.safetensors"
