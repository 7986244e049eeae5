"""What is learned <-> safetensors files that say how it was made.

Runs write models with their configuration (`save_model`). From Python, any regularizer is saved with the name of its
class and the arguments of its constructor (`save`): nothing in a file is ever imported or run.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from app.files import write_atomically, write_own
from app.models.build import Model, build_model
from app.models.facts import parse_facts
from app.models.sealed import read, sealed
from app.settings.fields import shown
from app.settings.options import Config
from app.settings.toml import parse, to_dict
from datasets.files import home_expanded
from regularizers import Potential, Regularizer, require_regularizer
from regularizers.foe.spline import LearnedPotential

FORMAT = "bilevel-regularizer 1"  # with the configuration of a run
FORMAT_OF_CLASSES = "bilevel-regularizer 2"  # with the name of a class and the arguments of its constructor
KERNEL = "problem.kernel"  # the setting of a blur kernel, and the fact with the fingerprint of its file
PRETRAINED = Path(__file__).parents[2] / "regularizers" / "pretrained"


class ModelError(ValueError):
    """A model file is missing, damaged or not one of ours; the message names it."""


def save_model(path: Path, model: Model, config: Config, facts: dict[str, Any]) -> None:
    """Write the weights, with the configuration they were trained with and `facts` about their making as metadata."""
    metadata = {"format": FORMAT, "config": json.dumps(to_dict(config)), "facts": json.dumps(facts)}
    write_own(path, sealed(model.tensors(), metadata))


def shipped() -> dict[str, Path]:
    """Return the files of the models that come with the program, by name."""
    return {path.stem: path for path in sorted(PRETRAINED.glob("*.safetensors"))}


def find_model(spec: str) -> Path:
    """Find the file of a run folder, a .safetensors file or the name of a shipped model. Raises ModelError."""
    path = home_expanded(spec)
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
    metadata, tensors = _contents(path)
    if metadata.get("format") == FORMAT_OF_CLASSES:
        raise ModelError(f"{path} was saved from Python: it is for app.load, not for the command line")
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path} is not a model of this program (format {metadata.get('format')!r})")
    try:
        config = parse(json.loads(metadata["config"]))
        model = build_model(config)
        model.load(tensors)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} does not hold the weights of the architecture it names: {reason}") from None
    return model, config


def save(
    regularizer: Regularizer, path: str | Path, *, ridge: float = 0.0, facts: dict[str, Any] | None = None
) -> None:
    """Write a regularizer of any class, one's own included. ridge: of its lower level. facts: what else to remember.

    Raises RegularizerError of anything else.
    """
    require_regularizer(regularizer)
    about = {"regularizer": _described(regularizer), "ridge": ridge, "facts": facts or {}}
    metadata = {"format": FORMAT_OF_CLASSES, **{key: json.dumps(value) for key, value in about.items()}}
    write_atomically(home_expanded(path), sealed(regularizer.state_dict(), metadata))


def load_regularizer(
    spec: str | Path, regularizer: Regularizer | None = None
) -> tuple[Regularizer, float, dict[str, Any]]:
    """Load what `save` wrote, or a model of a run: (regularizer, ridge, facts).

    regularizer: built like the one that was saved; without it, its class must be defined, and its arguments numbers,
    texts, lists or regularizers. Raises ModelError.
    """
    path = find_model(str(spec))
    metadata, tensors = _contents(path)
    if metadata.get("format") == FORMAT:
        model, config = load_model(str(spec))
        return model.regularizer, config.problem.ridge, read_facts(path)
    try:
        made = regularizer or _rebuilt(json.loads(metadata["regularizer"]))
        if len(kinds := {t.dtype for t in tensors.values() if t.is_floating_point()}) == 1:
            made = made.to(kinds.pop())  # what was learned in float64 is not rounded
        made.load_state_dict(tensors)
        return made, float(json.loads(metadata["ridge"])), dict(json.loads(metadata["facts"]))
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} does not hold the weights of the regularizer it names: {reason}") from None


def _described(regularizer: Regularizer) -> dict[str, Any]:
    """The class of a regularizer and the arguments it was built with; None for arguments that JSON does not know."""

    def plain(value: Any) -> Any:
        if isinstance(value, Regularizer):
            return _described(value)
        if isinstance(value, Potential | LearnedPotential):
            return value.name
        return list(value) if isinstance(value, tuple) else value

    arguments: dict[str, Any] | None = {name: plain(value) for name, value in regularizer.arguments.items()}
    try:
        json.dumps(arguments)
    except TypeError:
        arguments = None
    kind = type(regularizer)
    return {"class": kind.__qualname__, "module": kind.__module__, "arguments": arguments}


def _rebuilt(about: dict[str, Any]) -> Regularizer:
    """Build a regularizer of a class that is defined by now: that of the same module, as it was defined last (a cell of
    a notebook may have run again), or the only one of its name. Raises ModelError."""
    name = about["class"]
    named = [cls for cls in _subclasses(Regularizer) if cls.__qualname__ == name]
    fitting = [cls for cls in named if cls.__module__ == about.get("module")][-1:] or named
    if len(fitting) != 1 or about["arguments"] is None:
        raise ModelError(f"{name} cannot be built by itself: load(..., regularizer={name}(...)) with one built like it")
    values = about["arguments"].items()
    return fitting[0](**{k: _rebuilt(v) if isinstance(v, dict) and "class" in v else v for k, v in values})


def _subclasses(kind: type) -> list[type]:
    return [cls for own in kind.__subclasses__() for cls in (own, *_subclasses(own))]


def _contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file, all of which are finite. Raises ModelError."""
    try:
        metadata, tensors = read(path)
    except (SafetensorError, OSError) as error:
        if path.suffix != ".safetensors":
            raise ModelError(f"{path} is no model: give a run folder, a .safetensors file or a shipped model") from None
        raise ModelError(f"{path} is not a whole safetensors file: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{path} holds NaN or infinite numbers in its tensor {shown(name)}")
    return metadata, tensors


def read_facts(path: Path, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what `save_model` wrote about the training of a model that `load_model` accepts. Raises ModelError where a
    fact is of another kind than it writes, or one that is needed is missing."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("facts", "{}")
    try:
        return parse_facts(text, needed)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
