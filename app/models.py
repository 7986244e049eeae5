"""Regularizers <-> safetensors files that say how they were made."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import deepinv
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from app.config import parse
from app.files import write_atomically
from app.options import Config, ConfigError, RegularizerOptions
from regularizers import POTENTIALS, FieldOfExperts, Regularizer, TotalVariation

FORMAT = "bilevel-regularizer 1"


class ModelError(ValueError):
    """A model file is missing, damaged or not one of ours; the message names it."""


def build_regularizer(options: RegularizerOptions, color: bool) -> Regularizer:
    """An untrained regularizer of this architecture. Raises ConfigError if it cannot be built."""
    channels = 3 if color else 1
    try:
        if options.name == "tv":
            return TotalVariation(channels, options.isotropic, options.weight, options.smoothing)
        return FieldOfExperts(
            channels,
            options.filters,
            options.filter_size,
            POTENTIALS[options.potential],
            options.boundary,
            options.weak_convexity,
            options.weight,
            options.smoothing,
        )
    except ValueError as error:
        raise ConfigError(f"[regularizer] {error}") from None


def save_model(path: Path, regularizer: Regularizer, config: Config, facts: dict[str, Any]) -> None:
    """Weights, with the configuration they were trained with, versions and `facts` as metadata."""
    versions = {"torch": torch.__version__, "deepinv": deepinv.__version__}
    metadata = {"format": FORMAT, "config": json.dumps(asdict(config))}
    metadata["facts"] = json.dumps({**facts, "versions": versions})
    tensors = {name: p.detach().cpu().contiguous() for name, p in regularizer.named_parameters()}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_model(spec: str) -> tuple[Regularizer, Config]:
    """A run folder or a .safetensors file -> (regularizer, the configuration it was trained with)."""
    path = Path(spec).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"no model {spec!r}: give a run folder or a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a whole safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path} is not a model of this program (format {metadata.get('format')!r})")
    try:
        config = parse(json.loads(metadata["config"]))
        regularizer = build_regularizer(config.regularizer, config.data.color)
        regularizer.load_state_dict(tensors)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, ConfigError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} does not hold the weights of the architecture it names: {reason}") from None
    return regularizer, config


def read_facts(path: Path) -> dict[str, Any]:
    """What `save_model` wrote about the training of a model that `load_model` accepts."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["facts"])
