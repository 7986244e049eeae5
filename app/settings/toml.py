"""Experiments as frozen dataclasses <-> TOML. Imports nothing heavy: a wrong key must be answered at once."""

import operator
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import Field, fields, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from app.settings import former
from app.settings.fields import is_read, readers, shown
from app.settings.options import SECTIONS, Config, ConfigError, settings

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "above": operator.gt, "at least": operator.ge, "below": operator.lt, "at most": operator.le,
}  # fmt: skip

UNREADABLE = (OSError, ValueError, RecursionError)  # no text, more digits or more brackets than Python reads
SMALLEST, LARGEST = 1e-30, 1e30  # sizes of numbers that float32 holds

Nested = dict[str, dict[str, Any]]  # section -> key -> value


def parse(values: dict[str, Any], base: Config | None = None) -> Config:
    """Return `base` (by default, the defaults) with the differences of a nested dict. Every key of the dict must be
    read; what `base` says that is no longer read is dropped. A dict that an earlier version of the program wrote is
    understood, too. Raises ConfigError."""
    if base is None and former.is_former(values):
        return _changed(Config(), former.translated(values), strict=False)
    for name, section in values.items():
        if name not in SECTIONS:
            raise ConfigError(f"unknown section [{name}]; sections are {', '.join(SECTIONS)}")
        if not isinstance(section, dict):
            raise ConfigError(f"[{name}] must be a section with keys, not {shown(section)}")
    return _changed(base or Config(), values, strict=True)


def override(config: Config, assignments: Sequence[str]) -> Config:
    """Return a configuration with `section.key=value` strings applied together; later ones win. Raises ConfigError."""
    return parse(_assigned(assignments), config)


def load(path: Path, assignments: Sequence[str] = ()) -> Config:
    """Return the configuration of a TOML file and assignments, every key of which must be read. Raises ConfigError."""
    values = read_toml(path)
    try:
        if former.is_former(values) or not assignments:
            return override(parse(values), assignments)
        parse(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    assigned = _assigned(assignments)
    return parse({name: {**values.get(name, {}), **assigned.get(name, {})} for name in {**values, **assigned}})


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds. Raises ConfigError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except UNREADABLE as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def to_dict(config: Config) -> Nested:
    """Return every setting that something reads; `parse(to_dict(c)) == c`."""
    nested: Nested = {}
    for section, key, value, _ in settings(config):
        nested.setdefault(section, {})[key] = value
    return nested


def is_set(key: str, assignments: Sequence[str]) -> bool:
    """Tell whether one of the `section.key=value` strings sets this `section.key`."""
    return any(text.partition("=")[0].strip() == key for text in assignments)


def differences(before: Config, now: Config) -> list[str]:
    """Return the settings that differ, as text: `section.key = value (was value)`."""
    old, new = ({f"{s}.{key}": value for s, key, value, _ in settings(c)} for c in (before, now))
    told = lambda values, key: _literal(values[key]) if key in values else "not there"  # noqa: E731
    keys = [key for key in old | new if old.get(key) != new.get(key)]
    return [f"{key} = {told(new, key)} (was {told(old, key)})" for key in keys]


def to_toml(config: Config) -> str:
    """Return every setting that something reads as TOML, explained; `parse(tomllib.loads(to_toml(c))) == c`."""
    lines, last = [], ""
    for section, key, value, about in settings(config):
        if section != last:
            lines += [""] * bool(last) + [f"[{section}]"]
            last = section
        lines.append(f"{key} = {_literal(value)}  # {about}{_choices(getattr(config, section), key)}")
    return "\n".join([*lines, ""])


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _choices(options: Any, key: str) -> str:
    hint = _hints(type(options))[key]
    return f" ({' | '.join(get_args(hint))})" if get_origin(hint) is Literal else ""


def _assigned(assignments: Sequence[str]) -> Nested:
    """Return the keys of `section.key=value` strings, value in TOML syntax; a bare word is a string. Raises
    ConfigError."""
    values: Nested = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and section and key):
            raise ConfigError(f"--set takes section.key=value, not {shown(assignment)}")
        values.setdefault(section, {})[key] = _value(text.strip())
    return values


def _value(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return tomllib.loads(f"value = {text}")["value"]
    if text.startswith("[") and text.endswith("]") and "[" not in text[1:]:
        return [_value(entry.strip()) for entry in text[1:-1].split(",")]
    return text


def _changed(base: Config, values: Nested, strict: bool) -> Config:
    """Return `base` with these values; where not `strict`, those that nothing reads are dropped, too."""
    parts = {n: _section(n, getattr(base, n), values.get(n, {}), strict) for n in SECTIONS}
    sections = SimpleNamespace(**parts)
    for name, options in parts.items():
        unread = [key for key in fields(options) if not is_read(key, sections)]
        for key in unread:
            if strict and key.name in values.get(name, {}):
                path, value = f"{name}.{key.name}", _literal(getattr(options, key.name))
                raise ConfigError(f"{path} = {value} is not read here: it is for {key.metadata['when'].text}")
        parts[name] = replace(options, **{key.name: key.default for key in unread})
    return Config(**parts)


def _section(name: str, present: Any, given: dict[str, Any], strict: bool) -> Any:
    """Return one section with these values. If another choice is made, it takes over keys that mean the same there."""
    section, kind = SECTIONS[name], type(present)
    if section.selector in given:
        kind = _choice(name, given[section.selector])
    known, hints = {f.name: f for f in fields(kind)}, _hints(kind)
    kept = {f.name: getattr(present, f.name) for f in fields(present) if _same(f, known.get(f.name))}
    checked = {}
    for key, value in given.items():
        if key in known:
            checked[key] = _checked(f"{name}.{key}", value, hints[key], known[key])
        elif strict and key != section.selector:
            raise ConfigError(_not_here(name, key, value, kind))
    return kind(**(kept | checked))


def _choice(name: str, value: Any) -> type:
    section = SECTIONS[name]
    choices = {getattr(choice, section.selector): choice for choice in section.choices}
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name}.{section.selector} = {shown(value)}; allowed are {', '.join(choices)}")
    return choices[value]


def _same(key: Field, other: Field | None) -> bool:
    """Whether two choices mean the same by a key: `eta` of maid is not that of meha."""
    return other is not None and key.metadata["about"] == other.metadata["about"]


def _not_here(name: str, key: str, value: Any, kind: type) -> str:
    """Return what to say about a key that a section does not have."""
    section = SECTIONS[name]
    others = readers(key, section.selector, section.choices) if section.selector else ""
    if others:
        chosen = getattr(kind, section.selector)
        return f"{name}.{key} = {shown(value)} is not read by {chosen}: it is for {others}"
    known = ", ".join([section.selector] * bool(section.selector) + [f.name for f in fields(kind)])
    chosen = f" for {getattr(kind, section.selector)}" if section.selector else ""
    return f"unknown key {name}.{key} = {shown(value)}; keys of [{name}]{chosen} are {known}"


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
    """Return a value in the type of its key. Raises ConfigError if it has another type or is not allowed."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{path} = {shown(value)}; allowed are {', '.join(get_args(hint))}")
        return value
    if isinstance(hint, UnionType):  # one value or several
        one, several = get_args(hint)
        return _checked(path, value, several if isinstance(value, list | tuple) else one, option)
    if get_origin(hint) is tuple:
        return _checked_entries(path, value, get_args(hint), option)
    return _checked_value(path, value, hint, option)


def _checked_value(path: str, value: Any, hint: type, option: Field) -> Any:
    """Return a number or text within the limits of its key. Raises ConfigError if it is not."""
    if hint is float:
        value = _as_float(path, value)
    elif isinstance(value, bool) != (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{path} = {shown(value)} must be {_NAMES[hint]}")
    if hint is int and abs(value) >= 2**63:
        raise ConfigError(f"{path} = {shown(value)} must be a number of at most 63 bits")
    for comparison, limit in option.metadata["limits"].items():
        if not _COMPARISONS[comparison](value, limit):
            raise ConfigError(f"{path} = {shown(value)} must be {comparison} {limit:.15g}")
    if option.metadata["odd"] and value % 2 == 0:
        raise ConfigError(f"{path} = {shown(value)} must be odd")
    if option.metadata["form"]:
        try:
            return option.metadata["form"](value)
        except ConfigError as error:
            raise ConfigError(f"{path} = {error}") from None
    return value


def _checked_entries(path: str, value: Any, kinds: tuple[Any, ...], option: Field) -> tuple[Any, ...]:
    """Return a list as a tuple of entries of one kind, or, without an ellipsis, of so many. Raises ConfigError."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{path} = {shown(value)} must be a list such as [4, 8]")
    if Ellipsis not in kinds and len(value) != len(kinds):
        raise ConfigError(f"{path} = {shown(value)} must be one value or a pair such as ['5/255', '50/255']")
    return tuple(_checked(path, entry, kinds[0], option) for entry in value)


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _as_float(path: str, value: Any) -> float:
    """Return a finite number, or a fraction such as '25/255', as a float. Raises ConfigError for anything else."""
    number = float("nan")
    if isinstance(value, str):
        numerator, slash, denominator = value.partition("/")
        with suppress(ValueError, ZeroDivisionError):
            number = float(numerator) / float(denominator if slash else 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
    if not abs(number) < float("inf"):
        raise ConfigError(f"{path} = {shown(value)} must be a number, or a fraction such as '25/255'")
    if number and not SMALLEST <= abs(number) <= LARGEST:
        raise ConfigError(f"{path} = {shown(value)} must be 0, or from {SMALLEST:g} to {LARGEST:g} in size")
    return number
