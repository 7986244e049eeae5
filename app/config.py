"""Experiments as frozen dataclasses <-> TOML. Imports nothing heavy: a wrong key must be answered at once."""

import operator
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A key, value or file of a configuration is wrong; the message names it and what is allowed."""


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "above": operator.gt,
    "at least": operator.ge,
    "below": operator.lt,
    "at most": operator.le,
}


def _option(default: Any, about: str, *, odd: bool = False, **limits: float) -> Any:
    """A field with its explanation and the limits (above, at_least, below, at_most) of its value."""
    named = {name.replace("_", " "): limit for name, limit in limits.items()}
    return field(default=default, metadata={"about": about, "limits": named, "odd": odd})


@dataclass(frozen=True)
class Problem:
    task: Literal["denoise", "deblur", "inpaint"] = _option("denoise", "what is to be undone")
    noise_level: float = _option(
        25 / 255, "standard deviation on the scale [0, 1]; may be written '25/255'", at_least=0
    )
    kernel: str = _option(
        "gaussian", "deblur: gaussian | levin:1 ... levin:8 | FILE.npz:KEY | an image file (normalized to sum 1)"
    )
    kernel_size: int = _option(9, "deblur: side of the gaussian kernel in pixels", at_least=1, odd=True)
    kernel_width: float = _option(1.5, "deblur: standard deviation of the gaussian kernel in pixels", above=0)
    keep: float = _option(0.5, "inpaint: probability that a pixel is measured", above=0, at_most=1)
    ridge: float = _option(0.0, "weight of ridge/2 ||x||^2, part of the strong convexity", at_least=0)


@dataclass(frozen=True)
class Data:
    images: str = _option("bsds500:train+test", "training images: SET, SET:SPLIT+SPLIT or a folder")
    validation: str = _option("bsds500:val32", "held-out images")
    color: bool = _option(False, "RGB instead of grey")
    patch_size: int = _option(64, "side of the training patches in pixels", at_least=8)
    noise: Literal["fresh", "fixed"] = _option(
        "fresh",
        "fresh: new crop, turn and noise at every visit; fixed: one per image (finite sum, warm starts)",
    )
    augment: bool = _option(True, "random flips and quarter turns of the patches")
    validation_crop: int = _option(128, "validate on centre crops of this side while training", at_least=16)


@dataclass(frozen=True)
class RegularizerOptions:
    name: Literal["tv", "foe"] = _option("foe", "total variation or field of experts")
    isotropic: bool = _option(True, "tv: both differences under one root")
    filters: int = _option(32, "foe: number of filters", at_least=1)
    filter_size: int = _option(7, "foe: side of the filters in pixels", at_least=3, odd=True)
    potential: Literal["charbonnier", "huber", "mcp"] = _option("charbonnier", "foe: potential of the responses")
    boundary: Literal["valid", "circular", "reflect"] = _option("circular", "foe: how filters meet the border")
    weak_convexity: float = _option(0.95, "foe with mcp: modulus rho", above=0, below=1)
    weight: float = _option(0.01, "initial weight", above=0)
    smoothing: float = _option(0.01, "initial smoothing; below the weight for mcp", above=0)


@dataclass(frozen=True)
class Lower:
    solver: Literal["lbfgs", "agd"] = _option("lbfgs", "preconditioned L-BFGS or accelerated gradient")
    final_accuracy: float = _option(0.1, "certified ||x - argmin h|| of validation and evaluation", above=0)
    max_iterations: int = _option(20_000, "gradients after which an image stops uncertified", at_least=1)


@dataclass(frozen=True)
class Upper:
    algorithm: Literal["isgd"] = _option("isgd", "upper-level method")
    optimizer: Literal["sgd", "adam"] = _option("adam", "plain steps or Adam preconditioning")
    schedule: Literal["constant", "polynomial", "one_cycle"] = _option("one_cycle", "of the step size")
    step_size: float = _option(0.01, "alpha_0, or the peak of one_cycle", above=0)
    step_decay: float = _option(0.6, "q of polynomial steps alpha_0 (k + 1)^-q", at_least=0)
    accuracy: float = _option(0.1, "eps_0, bound on ||x - argmin h|| per patch", above=0)
    accuracy_decay: float = _option(0.0, "p of eps_k = eps_0 (k + 1)^-p; 0 keeps eps_0", at_least=0)
    relative_accuracy: float = _option(
        0.0,
        "eta: tighten eps_k until the proven error of the hypergradient is eta times its norm; 0 keeps eps_k. "
        "Practical for tv and in float64: for foe the proof asks for more digits than float32 has",
        at_least=0,
    )
    batch_size: int = _option(8, "patches per step", at_least=1)


@dataclass(frozen=True)
class Run:
    steps: int = _option(1500, "upper-level steps", at_least=1)
    seed: int = _option(0, "of crops, noise, masks and sampling", at_least=0)
    device: str = _option("auto", "auto | cpu | cuda | cuda:N")
    precision: Literal["float32", "float64"] = _option("float32", "of all computations")
    validate_every: int = _option(250, "steps between validations; 0 only at the end", at_least=0)
    checkpoint_every: int = _option(50, "steps between checkpoints", at_least=1)


@dataclass(frozen=True)
class Config:
    problem: Problem = Problem()
    data: Data = Data()
    regularizer: RegularizerOptions = RegularizerOptions()
    lower: Lower = Lower()
    upper: Upper = Upper()
    run: Run = Run()

    def __post_init__(self) -> None:
        r = self.regularizer
        if r.name == "foe" and r.potential == "mcp" and r.smoothing >= r.weight:
            raise ConfigError(f"regularizer.smoothing = {r.smoothing} must be below weight = {r.weight} for mcp")


def parse(values: dict[str, Any], base: Config | None = None) -> Config:
    """A nested dict of differences, applied to `base` (default: the defaults). Raises ConfigError."""
    config = base or Config()
    sections = {f.name for f in fields(Config)}
    changed: dict[str, Any] = {}
    for name, section in values.items():
        if name not in sections:
            raise ConfigError(f"unknown section [{name}]; sections are {_listing(sections)}")
        if not isinstance(section, dict):
            raise ConfigError(f"[{name}] must be a section with keys, not {section!r}")
        present = getattr(config, name)
        known = {f.name: f for f in fields(present)}
        hints = get_type_hints(type(present))
        for key in section:
            if key not in known:
                raise ConfigError(
                    f"unknown key {name}.{key} = {section[key]!r}; keys of [{name}] are {_listing(known)}"
                )
        checked = {k: _checked(f"{name}.{k}", v, hints[k], known[k]) for k, v in section.items()}
        changed[name] = replace(present, **checked)
    return replace(config, **changed)


def override(config: Config, assignments: list[str]) -> Config:
    """Apply `section.key=value` strings together, value in TOML syntax (a bare word is a string); later ones win."""
    values: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and section and key):
            raise ConfigError(f"--set takes section.key=value, not {assignment!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        values.setdefault(section, {})[key] = value
    return parse(values, config)


def load(path: Path) -> Config:
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def to_toml(config: Config) -> str:
    """Complete TOML of a configuration, each key explained; `parse(tomllib.loads(to_toml(c))) == c`."""
    lines = []
    for section in fields(config):
        options = getattr(config, section.name)
        lines.append(f"[{section.name}]")
        lines += [f"{f.name} = {_literal(getattr(options, f.name))}  # {_about(f)}" for f in fields(options)]
        lines.append("")
    return "\n".join(lines)


def _about(option: Field) -> str:
    choices = get_args(option.type) if get_origin(option.type) is Literal else ()
    return option.metadata["about"] + (f" ({' | '.join(choices)})" if choices else "")


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


def _checked(path: str, value: Any, hint: Any, option: Field) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{path} = {value!r}; allowed are {_listing(get_args(hint), ordered=True)}")
        return value
    if hint is float:
        value = _as_float(path, value)
    elif isinstance(value, bool) != (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{path} = {value!r} must be {_NAMES[hint]}")
    for comparison, limit in option.metadata["limits"].items():
        if not _COMPARISONS[comparison](value, limit):
            raise ConfigError(f"{path} = {value!r} must be {comparison} {limit:g}")
    if option.metadata["odd"] and value % 2 == 0:
        raise ConfigError(f"{path} = {value!r} must be odd")
    return value


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _as_float(path: str, value: Any) -> float:
    """A finite number, or a fraction such as '25/255'."""
    number = float("nan")
    if isinstance(value, str):
        numerator, slash, denominator = value.partition("/")
        with suppress(ValueError, ZeroDivisionError):
            number = float(numerator) / float(denominator if slash else 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if not abs(number) < float("inf"):
        raise ConfigError(f"{path} = {value!r} must be a number, or a fraction such as '25/255'")
    return number


def _listing(names: Any, ordered: bool = False) -> str:
    return ", ".join(names if ordered else sorted(names))
