"""What is learned <-> safetensors files that say how it was made."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open

from app.files import write_atomically
from app.models.build import Model, build_model
from app.settings.options import Config, ConfigError
from app.settings.toml import parse, to_dict

FORMAT = "bilevel-regularizer 1"
PRETRAINED = Path(__file__).parents[2] / "regularizers" / "pretrained"


class ModelError(ValueError):
    """A model file is missing, damaged or not one of ours; the message names it."""


def save_model(path: Path, model: Model, config: Config, facts: dict[str, Any]) -> None:
    """Write the weights, with the configuration they were trained with and `facts` about their making as metadata."""
    metadata = {"format": FORMAT, "config": json.dumps(to_dict(config)), "facts": json.dumps(facts)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.tensors().items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def shipped() -> dict[str, Path]:
    """Return the files of the models that come with the program, by name."""
    return {path.stem: path for path in sorted(PRETRAINED.glob("*.safetensors"))}


def find_model(spec: str) -> Path:
    """Find the file of a run folder, a .safetensors file or the name of a shipped model. Raises ModelError."""
    path = Path(spec).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        path = shipped().get(spec, path)
    if not path.is_file():
        names = ", ".join(shipped())
        raise ModelError(f"no model {spec!r}: give a run folder, a .safetensors file or a shipped model: {names}")
    return path


def load_model(spec: str) -> tuple[Model, Config]:
    """Load what `find_model` finds: the model, and the configuration it was trained with. Raises ModelError."""
    path = find_model(spec)
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
        model = build_model(config)
        model.load(tensors)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, ConfigError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} does not hold the weights of the architecture it names: {reason}") from None
    return model, config


def read_facts(path: Path) -> dict[str, Any]:
    """Return what `save_model` wrote about the training of a model that `load_model` accepts."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata().get("facts", "{}"))
