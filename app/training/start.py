"""Training that begins with a trained regularizer: with all of it, refined or not, or with its amplitude and contrast
alone."""

import math
import os
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.models.build import Model, build_model
from app.models.files import load_model
from app.settings.families import FieldOptions, FoeOptions, RegularizerOptions
from app.settings.fields import shown
from app.settings.options import Config, ConfigError
from app.settings.tasks import DRAWN, Deblur, Inpaint, Mri, Tomography
from datasets.blur_kernels import is_file
from datasets.image_sets import is_named
from regularizers import Adaptive, FieldOfExperts, Regularizer, Rescaled, TotalVariation

NETWORK = ("contrast_channels", "contrast_network", "masks")  # keys of what finds contrasts
CHAIN = ("updates", "learn_guide")  # keys of what they are found from
OWN = ("start", "learn", *NETWORK, *CHAIN)  # keys that say how to go on; all others belong to the start
# keys that may differ from the start
REFINED = ("weak_convexity", "least_smoothing", "largest_curvature", "filter_size", "shared_potential")
SLIGHTLY = 0.01  # above a bound that rose, in units of its rise, begins what was below


def anchored(config: Config) -> Config:
    """Return a configuration whose paths are absolute, so that it means the same in every folder."""

    def absolute(path: str) -> str:
        return os.path.abspath(os.path.expanduser(path))

    def found(path: str) -> str:
        return absolute(path) if os.path.exists(os.path.expanduser(path)) else path

    data, problem, regularizer = config.data, config.problem, config.regularizer
    sets = {
        key: found(spec) for key in ("images", "validation", "measured") if not is_named(spec := getattr(data, key))
    }
    if isinstance(problem, Deblur) and is_file(problem.kernel):
        problem = replace(problem, kernel=absolute(problem.kernel))
    if isinstance(problem, Inpaint) and problem.mask:
        problem = replace(problem, mask=absolute(problem.mask))
    if isinstance(problem, Mri):
        mask = problem.mask if problem.mask in DRAWN else absolute(problem.mask)
        problem = replace(problem, mask=mask, coil_maps=problem.coil_maps and absolute(problem.coil_maps))
    if isinstance(problem, Tomography) and problem.angle_file:
        problem = replace(problem, angle_file=absolute(problem.angle_file))
    start = found(regularizer.start) if regularizer.start else ""
    return replace(config, data=replace(data, **sets), problem=problem, regularizer=replace(regularizer, start=start))


def inherited(config: Config) -> Config:
    """Return a configuration with the architecture of regularizer.start, if set. Raises ConfigError where other keys
    contradict it."""
    return _with_start(anchored(config))[0]


def begin(config: Config) -> tuple[Config, Model]:
    """Return the complete configuration and the model that training starts from. Raises ConfigError. If h is a negative
    log-posterior, its regularizer is sigma^2 times that of the prior: an amplitude, or the weights of potentials that
    are not budgeted, start with the ratio of both squares."""
    config, start = _with_start(anchored(config))
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
        _adopt(regularizer, known, (old.regularizer, config.regularizer))
    before, now = old.problem.level, config.problem.level
    if isinstance(regularizer, Rescaled) and regularizer.learns_level and not isinstance(trained.regularizer, Rescaled):
        before = regularizer.put_level(now) if now > 0 else before
    if before > 0 and now > 0:
        _amplify(regularizer, (now / before) ** 2)
    return config, model


def _amplify(regularizer: Regularizer, factor: float) -> None:
    """Multiply R by a factor, where one number or the weights do that and hold at one noise level."""
    if isinstance(regularizer, Rescaled):
        regularizer.amplify(factor)
    elif isinstance(regularizer, TotalVariation | FieldOfExperts) and not regularizer.noise_nodes:
        budgeted = isinstance(regularizer, FieldOfExperts) and regularizer.potential.budgeted
        regularizer.log_weights.data += 0 if budgeted else math.log(factor)


def _least(options: RegularizerOptions) -> float:
    """The bound that smoothings stay above, of budgeted potentials in units of their weights; 0 for families without
    one."""
    if options.budgeted:
        largest = getattr(options, "largest_curvature", 0.0)
        return 1 / largest if largest else 0.0
    return getattr(options, "least_smoothing", 0.0)


def _with_start(config: Config) -> tuple[Config, tuple[Model, Config] | None]:
    """The configuration with the architecture of regularizer.start, and what was found there."""
    found = None
    if config.regularizer.start:
        found = load_model(config.regularizer.start)
        config = replace(config, regularizer=_architecture(config, found[1]))
    elif config.regularizer.contrasts:
        raise ConfigError("regularizer.contrast_channels needs a trained model as guide: set regularizer.start to one")
    elif config.regularizer.learn != "all":
        learn = config.regularizer.learn
        raise ConfigError(f"regularizer.learn = {learn} needs a trained model: set regularizer.start to a run folder")
    elif getattr(config.regularizer, "noise_nodes", 0) and not isinstance(config.problem.noise_level, tuple):
        raise ConfigError("regularizer.noise_nodes needs levels to learn from: set problem.noise_level = [low, high]")
    side, patch = config.regularizer.side, config.data.patch_size
    if patch < side:
        raise ConfigError(f"data.patch_size = {patch} is smaller than the filters, which have {side} x {side} pixels")
    return config, found


def _architecture(config: Config, old: Config) -> RegularizerOptions:
    """That of the start, refined where the present keys say so. Raises ConfigError where they contradict it."""
    wanted, trained = config.regularizer, old.regularizer
    start = wanted.start
    if old.data.color != config.data.color:
        raise ConfigError(f"{start} was trained with data.color = {str(old.data.color).lower()}: set the same")
    if trained.learn not in ("all", wanted.learn):
        raise ConfigError(f"{start} is a rescaled regularizer: set regularizer.learn = {trained.learn}")
    if wanted.learn == "scale_and_level" and not getattr(trained, "noise_nodes", 0):
        raise ConfigError(f"{start} was learned for one noise level: set regularizer.learn = scale")
    given = {f.name: getattr(wanted, f.name) for f in fields(wanted) if getattr(wanted, f.name) != f.default}
    if wanted.name not in (FoeOptions.name, trained.name):
        given = {"name": wanted.name, **given}
    refined = {} if wanted.learn != "all" or wanted.contrasts or trained.contrasts else _refined(given, trained)
    for key, mine in given.items():
        theirs = getattr(trained, key, None)
        if key not in (*OWN, *refined) and mine != theirs:
            raise ConfigError(
                f"regularizer.{key} = {shown(mine)}, but {start} has {shown(theirs)}: leave out all keys of "
                f"[regularizer] but start, learn, a larger filter_size, weak_convexity, least_smoothing, "
                f"largest_curvature and shared_potential = false"
            )
    network = _network(given, wanted, trained)
    return replace(trained, **refined, **network, start=start, learn=wanted.learn)


def _network(given: dict[str, Any], wanted: RegularizerOptions, trained: RegularizerOptions) -> dict[str, Any]:
    """The given keys of the network that finds contrasts, where the start has none, and of what they are found from. A
    network may begin to find masks, too."""
    if (wanted.contrasts or trained.contrasts) and wanted.learn != "all":
        raise ConfigError("a regularizer with contrast_channels cannot be rescaled: set regularizer.learn = all")
    if not isinstance(trained, FieldOptions):
        if wanted.contrasts:
            raise ConfigError(f"regularizer.contrast_channels is for foe, crr and wcrr, not {trained.name}")
        return {}
    for key in given.keys() & set(NETWORK):
        if trained.contrasts and key != "masks" and given[key] != (theirs := getattr(trained, key)):
            raise ConfigError(f"{wanted.start} has regularizer.{key} = {theirs}: leave it out")
    return {"learn_guide": False} | {key: given[key] for key in (*NETWORK, *CHAIN) if key in given}


def _refined(given: dict[str, Any], old: RegularizerOptions) -> dict[str, Any]:
    """Those of the given keys in which the architecture may differ from that of the start."""
    new = {key: given[key] for key in REFINED if key in given and hasattr(old, key)}
    grows = isinstance(old, FoeOptions) and not old.hidden_channels and new.get("filter_size", 0) > old.filter_size
    if not grows:
        new.pop("filter_size", None)
    if not getattr(old, "shared_potential", True):
        new.pop("shared_potential", None)
    return new


def _above_bound(raw: Tensor, before: float, now: float, budgeted: bool) -> Tensor:
    """Return raw smoothings for the bound that there is now, of the same smoothings where they are above it."""
    if before == now:
        return raw
    above = (before + (1 - before) / (1 + raw.exp()) if budgeted else before + raw.exp()) - now
    above = above.clamp(min=SLIGHTLY * abs(now - before))
    return ((1 - now) / above - 1).log() if budgeted else above.log()


def _adopt(
    regularizer: nn.Module,
    known: dict[str, Tensor],
    options: tuple[RegularizerOptions, RegularizerOptions] | None = None,  # before, now
) -> None:
    """Begin as the regularizer with these tensors: its filters in a margin of zeros, its potential for each filter,
    its smoothings as far as they are above a bound that rose, and masks that are the same everywhere."""
    tensors = dict(known)
    for name, now in regularizer.state_dict().items():
        before = known[name]
        if name.endswith("raw_filters") and now.shape != before.shape:
            centred = before - before.mean((2, 3), keepdim=True)  # what is centred in the margin is not what was before
            tensors[name] = F.pad(centred, 4 * ((now.shape[-1] - before.shape[-1]) // 2,))
        elif name.endswith("raw_smoothings") and options:
            tensors[name] = _above_bound(before, _least(options[0]), _least(options[1]), options[1].budgeted)
        elif name.startswith("network.last") and len(now) > len(before):
            tensors[name] = torch.cat([before, now[len(before) :]])
        elif name.endswith("raw_shape"):
            tensors[name] = before.expand_as(now)
    regularizer.load_state_dict(tensors)
