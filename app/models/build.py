"""Options -> what is learned, untrained: a regularizer, and the blur kernel where it is not known."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from app.problem.blur_kernel import BlurKernel
from app.settings.families import (
    GROUPED,
    LEARNED,
    FieldOptions,
    FoeOptions,
    IcnnOptions,
    RegularizerOptions,
    RidgeOptions,
    TvOptions,
)
from app.settings.options import Config, ConfigError
from app.settings.tasks import Deblur
from regularizers import (
    Adaptive,
    FieldOfExperts,
    InputConvexNetwork,
    Regularizer,
    Rescaled,
    TotalVariation,
    require_regularizer,
)

PREFIX = "kernel."  # before the names of the blur kernel's tensors


@dataclass(frozen=True)
class Model:
    """All that an upper level learns: a regularizer, and the blur kernel where it is not known."""

    regularizer: Regularizer
    kernel: BlurKernel | None = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what is learned."""
        yield from self.regularizer.parameters()
        if self.kernel is not None:
            yield from self.kernel.parameters()

    @property
    def learned(self) -> int:
        """How many numbers its own training moves."""
        return sum(p.numel() for p in self.parameters())

    @property
    def size(self) -> int:
        """How many numbers were ever learned for it, those of a guide or a base that stay as they are included."""
        return count(self.regularizer) + (0 if self.kernel is None else count(self.kernel))

    def tensors(self) -> dict[str, Tensor]:
        """Return all that `load` needs, by name: the parameters, and what stays as it is."""
        tensors = dict(self.regularizer.state_dict())
        if self.kernel is not None:
            tensors |= {PREFIX + name: t for name, t in self.kernel.state_dict().items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over the values of tensors by name. Raises RuntimeError if names or shapes are others."""
        known = {} if self.kernel is None else {n: t for n, t in tensors.items() if n.startswith(PREFIX)}
        self.regularizer.load_state_dict({n: t for n, t in tensors.items() if n not in known})
        if self.kernel is not None:
            self.kernel.load_state_dict({n.removeprefix(PREFIX): t for n, t in known.items()})

    def to(self, device: torch.device, dtype: torch.dtype) -> "Model":
        """Return the model on a device and in a floating-point format."""
        return Model(self.regularizer.to(device, dtype), self.kernel and self.kernel.to(device, dtype))

    def at(self, noise_level: float) -> "Model":
        """Return the model with the regularizer at this noise level; the parameters are the same ones."""
        return Model(self.regularizer.at(noise_level), self.kernel)


def learned_model(learned: object) -> Model:
    """Return what is learned as a model. Raises RegularizerError of anything but a regularizer or a model."""
    if isinstance(learned, Model):
        return learned
    require_regularizer(learned)
    return Model(learned)  # type: ignore[arg-type]


def count(module: nn.Module) -> int:
    """Return how many numbers the parameters of a module and of its parts hold, whether or not they still move."""
    own = {id(p): p.numel() for part in module.modules() for p in part.parameters(recurse=False)}
    return sum(own.values())


def build_model(config: Config) -> Model:
    """Return an untrained model at problem.level. Raises ConfigError if it cannot be built."""
    problem, kernel = config.problem, None
    if isinstance(problem, Deblur) and problem.learn_kernel:
        kernel = BlurKernel(problem.learned_kernel_size, problem.initial_kernel_width)
        kernel.requires_grad_(not problem.hold_kernel)
    return Model(build_regularizer(config.regularizer, config.data.color), kernel).at(problem.level)


def build_regularizer(options: RegularizerOptions, color: bool) -> Regularizer:
    """Return an untrained regularizer of this architecture. Raises ConfigError if it cannot be built."""
    try:
        base = _base(options, 3 if color else 1)
    except ValueError as error:
        raise ConfigError(f"[regularizer] {error}") from None
    if isinstance(options, FieldOptions) and options.contrasts and isinstance(base, FieldOfExperts):
        base = Adaptive(
            base, options.contrasts, options.contrast_network, masks=options.masks, updates=options.updates,
            learn_guide=options.learn_guide,
        )  # fmt: skip
    return base if options.learn == "all" else Rescaled(base, options.learn == "scale_and_level")


def _base(options: RegularizerOptions, channels: int) -> Regularizer:
    match options:
        case TvOptions():
            return TotalVariation(
                channels, isotropic=options.isotropic, weight=options.weight, smoothing=options.smoothing,
                noise_nodes=options.noise_nodes,
            )  # fmt: skip
        case IcnnOptions():
            return InputConvexNetwork(
                channels, options.filters, options.filter_size, weight=options.weight, smoothing=options.smoothing
            )
        case FoeOptions() | RidgeOptions():
            return _field_of_experts(options, channels)
    raise AssertionError(f"no constructor for {type(options).__name__}")


def _field_of_experts(options: FoeOptions | RidgeOptions, channels: int) -> FieldOfExperts:
    """Return a field of experts; a ridge regularizer is one with composed filters and a learned potential."""
    if isinstance(options, RidgeOptions):
        size, hidden = options.layer_size, options.hidden_channels
        potential = "weak_spline" if options.budgeted else "spline"
    else:
        size, potential, hidden = options.filter_size, options.potential, options.hidden_channels
    some = ["weak_convexity" if options.budgeted else "least_smoothing"] + ["shared_potential"] * (potential in LEARNED)
    some += ["group_size", "group_norm"] * (potential in GROUPED) + ["largest_curvature"] * (potential == "mcp")
    may: dict[str, Any] = {name: getattr(options, name) for name in some}  # not every potential has them
    return FieldOfExperts(
        channels, options.filters, size, potential, boundary=options.boundary, weight=options.weight,
        smoothing=options.smoothing, hidden_channels=hidden, noise_nodes=options.noise_nodes, **may,
    )  # fmt: skip
