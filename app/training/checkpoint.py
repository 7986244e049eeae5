"""Exact state of a training run in one safetensors file: no pickle, written atomically."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from app.files import write_atomically


class RunError(ValueError):
    """A run folder is in the way, missing or damaged; the message names it."""


def save(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors by name (...), and facts that JSON can hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    detached = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_atomically(path, safetensors.torch.save(detached, {"facts": json.dumps(facts)}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raises RunError where the file is missing or damaged."""
    if not path.is_file():
        raise RunError(f"{path.parent.parent} has no checkpoint to resume from ({path} is missing)")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise RunError(f"the checkpoint {path} is damaged: {error}") from None
