"""Experiments as frozen dataclasses <-> TOML. Imports nothing heavy: a wrong key must be answered at once."""

import operator
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from app.settings.options import Config, ConfigError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "above": operator.gt,
    "at least": operator.ge,
    "below": operator.lt,
    "at most": operator.le,
}


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
    if isinstance(value, tuple):
        return repr(list(value))
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


def _checked(path: str, value: Any, hint: Any, option: Field) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{path} = {value!r}; allowed are {_listing(get_args(hint), ordered=True)}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path} = {value!r} must be a list such as [4, 8]")
        return tuple(_checked(path, entry, get_args(hint)[0], option) for entry in value)
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
