"""Training that begins with a trained regularizer: with all of it, refined or not, or with its amplitude and contrast
alone."""

from dataclasses import fields, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from app.models.model import Model, build_model, load_model
from app.settings.options import Config, ConfigError, RegularizerOptions
from regularizers import Adaptive, Rescaled

OWN = ("start", "learn", "contrast_channels")  # keys that say how to go on; all others belong to the start
SLIGHTLY = 0.01  # above a bound that rose, in units of its rise, begins what was below


def inherited(config: Config) -> Config:
    """With the architecture of regularizer.start, if set. Raises ConfigError where other keys contradict it."""
    return _with_start(config)[0]


def begin(config: Config) -> tuple[Config, Model]:
    """The complete configuration and the model that training starts from.

    If h is a negative log-posterior, its regularizer is sigma^2 times that of the prior: an amplitude starts with the
    ratio of both squares.
    """
    config, start = _with_start(config)
    model = build_model(config)
    if start is None:
        return config, model
    trained, old = start
    regularizer, known = model.regularizer, trained.regularizer.state_dict()
    if isinstance(regularizer, Adaptive) and not isinstance(trained.regularizer, Adaptive):
        _adopt(regularizer.base, known)
        _adopt(regularizer.guide, known)
    elif isinstance(regularizer, Rescaled) and not isinstance(trained.regularizer, Rescaled):
        _adopt(regularizer.base, known)
    else:
        _adopt(regularizer, known, config.regularizer.least_smoothing - old.regularizer.least_smoothing)
    before, now = old.problem.noise_level, config.problem.noise_level
    if isinstance(regularizer, Rescaled) and before > 0 and now > 0:
        regularizer.amplify((now / before) ** 2)
    return config, model


def _with_start(config: Config) -> tuple[Config, tuple[Model, Config] | None]:
    wanted = config.regularizer
    if not wanted.start:
        if wanted.contrast_channels:
            raise ConfigError(
                "regularizer.contrast_channels needs a trained model as guide: set regularizer.start to one"
            )
        if wanted.learn == "scale":
            raise ConfigError("regularizer.learn = scale needs a trained model: set regularizer.start to a run folder")
        return config, None
    model, old = load_model(wanted.start)
    if old.data.color != config.data.color:
        raise ConfigError(f"{wanted.start} was trained with data.color = {str(old.data.color).lower()}: set the same")
    if old.regularizer.learn == "scale" and wanted.learn == "all":
        raise ConfigError(f"{wanted.start} is a rescaled regularizer: set regularizer.learn = scale")
    refined = _refined(wanted, old.regularizer)
    for option in fields(RegularizerOptions):
        mine, theirs = (getattr(options, option.name) for options in (wanted, old.regularizer))
        if option.name not in (*OWN, *refined) and mine not in (option.default, theirs):
            raise ConfigError(
                f"regularizer.{option.name} = {mine!r}, but {wanted.start} has {theirs!r}: leave out all keys of "
                f"[regularizer] but start, learn, a larger filter_size, weak_convexity, least_smoothing and "
                f"shared_potential = false"
            )
    known, channels = old.regularizer.contrast_channels, wanted.contrast_channels
    if known and channels not in (0, known):
        raise ConfigError(f"{wanted.start} has regularizer.contrast_channels = {known}: leave it out")
    if (known or channels) and wanted.learn == "scale":
        raise ConfigError("a regularizer with contrast_channels cannot be rescaled: set regularizer.learn = all")
    architecture = replace(old.regularizer, **refined, **{name: getattr(wanted, name) for name in OWN})
    architecture = replace(architecture, contrast_channels=known or channels)
    return replace(config, regularizer=architecture), (model, old)


def _refined(wanted: RegularizerOptions, old: RegularizerOptions) -> dict[str, Any]:
    """Those keys in which the architecture may differ from that of the start, with their new values. A key that has its
    default counts as not set."""
    if wanted.learn == "scale" or wanted.contrast_channels or old.contrast_channels:
        return {}
    may = {
        "filter_size": old.name == "foe" and wanted.filter_size > old.filter_size,
        "shared_potential": old.shared_potential,
        "weak_convexity": True,
        "least_smoothing": True,
    }
    new = {name: getattr(wanted, name) for name, allowed in may.items() if allowed}
    return {name: value for name, value in new.items() if value != getattr(RegularizerOptions(), name)}


def _adopt(regularizer: nn.Module, known: dict[str, Tensor], rise: float = 0.0) -> None:
    """Begin as the regularizer with these tensors: its filters in a margin of zeros, its potential for each filter, and
    its smoothings as far as they are above a bound that rose."""
    tensors = dict(known)
    for name, now in regularizer.state_dict().items():
        before = known[name]
        if name.endswith("raw_filters") and now.shape != before.shape:
            centred = before - before.mean((2, 3), keepdim=True)  # what is centred in the margin is not what was before
            tensors[name] = F.pad(centred, 4 * ((now.shape[-1] - before.shape[-1]) // 2,))
        elif name.endswith("raw_smoothings") and rise:
            tensors[name] = (before.exp() - rise).clamp(min=SLIGHTLY * abs(rise)).log()
        elif name.endswith("raw_shape"):
            tensors[name] = before.expand_as(now)
    regularizer.load_state_dict(tensors)
