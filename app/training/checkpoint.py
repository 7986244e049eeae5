"""Exact state of a training run in one safetensors file: no pickle, written atomically, sealed by a checksum.

It is the only file that a run goes on from. Model, metrics and history follow from it.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from app.files import write_own
from app.models.sealed import SEALS, read, sealed

INPUTS = "inputs"  # the fact with the fingerprints of what a run is made of; files with it have a checksum


class RunError(ValueError):
    """A run folder is in the way, missing or damaged; the message names it."""


def save(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors by name (...), and facts that JSON can hold."""
    write_own(path, sealed(tensors, {"facts": json.dumps(facts)}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raises RunError where the file is missing or damaged."""
    if not path.is_file():
        raise RunError(f"{path.parent.parent} has no checkpoint to resume from ({path} is missing)")
    try:
        metadata, tensors = read(path)
        facts = dict(json.loads(metadata["facts"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"the checkpoint {path} is damaged: {error}") from None
    if INPUTS in facts and not metadata.keys() & set(SEALS):
        raise RunError(f"the checkpoint {path} is damaged: it has lost its checksum")
    return tensors, facts
