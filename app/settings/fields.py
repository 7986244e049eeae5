"""What a setting is: a field of a frozen dataclass with its meaning, its limits, and when it is read."""

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

LONGEST = 100  # characters of a value in a message


class ConfigError(ValueError):
    """A key, value or file of a configuration is wrong; the message names it and what is allowed."""


def shown(value: Any) -> str:
    """Return a value as text that fits a line: values that the user wrote may be of any length and depth."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits or brackets than Python writes
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@dataclass(frozen=True)
class When:
    """A condition under which a key is read: how a user would write it, and whether a configuration fulfils it."""

    text: str
    holds: Callable[[Any], bool]  # of anything that has the sections as attributes


def option(
    default: Any,
    about: str,
    *,
    when: When | None = None,
    form: Callable[[Any], Any] | None = None,
    odd: bool = False,
    **limits: float,
) -> Any:
    """Return a field with its explanation and the limits (above, at_least, below, at_most) of its value.

    when: without it, the key is always read.  form: raises ConfigError for a wrong value, and returns its normal form.
    """
    named = {name.replace("_", " "): limit for name, limit in limits.items()}
    return field(default=default, metadata={"about": about, "limits": named, "odd": odd, "when": when, "form": form})


def is_read(key: Field, sections: Any) -> bool:
    """Return whether anything reads a key of a section that has it."""
    when = key.metadata["when"]
    return when is None or when.holds(sections)


def readers(key: str, selector: str, choices: tuple[type, ...]) -> str:
    """Return the choices of a section that read a key, as text: "wcrr, foe with regularizer.potential = mcp"."""
    groups: dict[str, list[str]] = {"": []}
    for choice in choices:
        for f in (f for f in fields(choice) if f.name == key):
            when = f.metadata["when"]
            groups.setdefault(f" with {when.text}" if when else "", []).append(getattr(choice, selector))
    return ", ".join(", ".join(names) + text for text, names in groups.items() if names)
