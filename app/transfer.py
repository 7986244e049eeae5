"""Training that begins with a trained regularizer: with all of it, or with its amplitude and contrast alone."""

from dataclasses import fields, replace

from app.models import Model, build_model, load_model
from app.options import Config, ConfigError, RegularizerOptions
from regularizers import Adaptive, Rescaled

OWN = ("start", "learn", "contrast_channels")  # keys that say how to go on; all others belong to the start


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
    regularizer = model.regularizer
    if isinstance(regularizer, Adaptive) and not isinstance(trained.regularizer, Adaptive):
        regularizer.base.load_state_dict(trained.regularizer.state_dict())
        regularizer.guide.load_state_dict(trained.regularizer.state_dict())
    elif isinstance(regularizer, Rescaled) and not isinstance(trained.regularizer, Rescaled):
        regularizer.base.load_state_dict(trained.regularizer.state_dict())
    else:
        regularizer.load_state_dict(trained.regularizer.state_dict())
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
    for option in fields(RegularizerOptions):
        mine, theirs = (getattr(options, option.name) for options in (wanted, old.regularizer))
        if option.name not in OWN and mine not in (option.default, theirs):
            raise ConfigError(
                f"regularizer.{option.name} = {mine!r}, but {wanted.start} has {theirs!r}: leave out all keys "
                f"of [regularizer] but start and learn"
            )
    known, channels = old.regularizer.contrast_channels, wanted.contrast_channels
    if known and channels not in (0, known):
        raise ConfigError(f"{wanted.start} has regularizer.contrast_channels = {known}: leave it out")
    if (known or channels) and wanted.learn == "scale":
        raise ConfigError("a regularizer with contrast_channels cannot be rescaled: set regularizer.learn = all")
    architecture = replace(old.regularizer, start=wanted.start, learn=wanted.learn, contrast_channels=known or channels)
    return replace(config, regularizer=architecture), (model, old)
