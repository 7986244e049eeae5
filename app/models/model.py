"""What is learned <-> safetensors files that say how it was made."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from app.files import write_atomically
from app.problem.blur_kernel import BlurKernel
from app.settings.options import Config, ConfigError, RegularizerOptions
from app.settings.toml import parse
from regularizers import (
    Adaptive,
    FieldOfExperts,
    InputConvexNetwork,
    Regularizer,
    Rescaled,
    TotalVariation,
)

FORMAT = "bilevel-regularizer 1"
PRETRAINED = Path(__file__).parents[2] / "regularizers" / "pretrained"
KERNEL = "kernel."  # before the names of the blur kernel's tensors


class ModelError(ValueError):
    """A model file is missing, damaged or not one of ours; the message names it."""


@dataclass(frozen=True)
class Model:
    """All that an upper level learns: a regularizer, and the blur kernel where it is not known."""

    regularizer: Regularizer
    kernel: BlurKernel | None = None

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.regularizer.parameters()
        if self.kernel is not None:
            yield from self.kernel.parameters()

    def tensors(self) -> dict[str, Tensor]:
        """All that `load` needs: the parameters, and what stays as it is."""
        tensors = dict(self.regularizer.state_dict())
        if self.kernel is not None:
            tensors |= {KERNEL + name: t for name, t in self.kernel.state_dict().items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Those of `tensors`. Raises RuntimeError if they are others."""
        known = {} if self.kernel is None else {n: t for n, t in tensors.items() if n.startswith(KERNEL)}
        self.regularizer.load_state_dict({n: t for n, t in tensors.items() if n not in known})
        if self.kernel is not None:
            self.kernel.load_state_dict({n.removeprefix(KERNEL): t for n, t in known.items()})

    def to(self, device: torch.device, dtype: torch.dtype) -> "Model":
        return Model(self.regularizer.to(device, dtype), self.kernel and self.kernel.to(device, dtype))

    def at(self, noise_level: float) -> "Model":
        """With the regularizer at this noise level; the parameters are the same ones."""
        return Model(self.regularizer.at(noise_level), self.kernel)


def build_model(config: Config) -> Model:
    """Untrained, at problem.noise_level. Raises ConfigError if it cannot be built."""
    problem = config.problem
    kernel = BlurKernel(problem.learned_kernel_size, problem.initial_kernel_width) if problem.learn_kernel else None
    return Model(build_regularizer(config.regularizer, config.data.color), kernel).at(problem.noise_level)


def build_regularizer(options: RegularizerOptions, color: bool) -> Regularizer:
    """An untrained regularizer of this architecture. Raises ConfigError if it cannot be built."""
    base = _build_base(options, 3 if color else 1)
    if options.contrast_channels:
        if not isinstance(base, FieldOfExperts):
            raise ConfigError(f"[regularizer] contrast_channels is for foe, crr and wcrr, not {options.name}")
        base = Adaptive(base, options.contrast_channels)
    return Rescaled(base) if options.learn == "scale" else base


def _build_base(options: RegularizerOptions, channels: int) -> Regularizer:
    try:
        if options.name == "tv":
            return TotalVariation(
                channels,
                options.isotropic,
                weight=options.weight,
                smoothing=options.smoothing,
                noise_nodes=options.noise_nodes,
            )
        if options.name == "icnn":
            return InputConvexNetwork(
                channels, options.filters, options.filter_size, weight=options.weight, smoothing=options.smoothing
            )
        size, potential, hidden = options.filter_size, options.potential, ()
        if options.name != "foe":
            size, hidden = options.layer_size, options.hidden_channels
            potential = "spline" if options.name == "crr" else "weak_spline"
        return FieldOfExperts(
            channels,
            options.filters,
            size,
            potential,
            boundary=options.boundary,
            weak_convexity=options.weak_convexity,
            weight=options.weight,
            smoothing=options.smoothing,
            hidden_channels=hidden,
            shared_potential=options.shared_potential,
            noise_nodes=options.noise_nodes,
            least_smoothing=options.least_smoothing,
        )
    except ValueError as error:
        raise ConfigError(f"[regularizer] {error}") from None


def save_model(path: Path, model: Model, config: Config, facts: dict[str, Any]) -> None:
    """Weights, with the configuration they were trained with and `facts` about their making as metadata."""
    metadata = {"format": FORMAT, "config": json.dumps(asdict(config)), "facts": json.dumps(facts)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.tensors().items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def shipped() -> dict[str, Path]:
    """The models that come with the program, by name."""
    return {path.stem: path for path in sorted(PRETRAINED.glob("*.safetensors"))}


def find_model(spec: str) -> Path:
    """A run folder, a .safetensors file or the name of a shipped model -> its file. Raises ModelError."""
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
    """What `find_model` finds -> (model, the configuration it was trained with). Raises ModelError."""
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
    """What `save_model` wrote about the training of a model that `load_model` accepts."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata().get("facts", "{}"))
