"""Arguments of the command line as values, and how their texts are read.

Nothing heavy is imported here, so that `--help` and typing errors answer at once.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Container = argparse._ActionsContainer  # a parser or a group of its options
Add = Callable[[Container], object]


def option(*flags: str, **keywords: object) -> Add:
    """Return what adds this argument to a parser; the arguments are those of argparse."""
    return lambda container: container.add_argument(*flags, **keywords)  # type: ignore[arg-type]


def either(*options: Add) -> Add:
    """Return what adds options that exclude each other."""

    def add(container: Container) -> None:
        group = container.add_mutually_exclusive_group()
        for one in options:
            one(group)

    return add


def split_label(text: str) -> tuple[str, str]:
    """Split [LABEL=]SOURCE into (label or "", source).

    A path that exists is a source, also where its name holds "=". A label holds no "/".
    """
    label, equals, source = text.partition("=")
    if not equals or "/" in label or Path(text).expanduser().exists():
        return "", text
    return label, source


def positive(text: str) -> int:
    """Read a whole number above 0. Raises ArgumentTypeError."""
    return _checked(int(text), int(text) >= 1, "at least 1")


def above_zero(text: str) -> float:
    """Read a number above 0. Raises ArgumentTypeError."""
    return _checked(float(text), float(text) > 0, "above 0")


def up_to_four(text: str) -> int:
    """Read a whole number from 0 to 4. Raises ArgumentTypeError."""
    return _checked(int(text), 0 <= int(text) <= 4, "0 to 4")


def _checked(number: Any, fits: bool, wanted: str) -> Any:
    if not fits:
        raise argparse.ArgumentTypeError(f"must be {wanted}")
    return number


def names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Return a reader of NAME,NAME,... that refuses unknown names with ArgumentTypeError."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"unknown {name!r}; known are {', '.join(known)}")
        return chosen

    return parse


def place(text: str) -> tuple[str | None, tuple[int, ...]]:
    """Read [IMAGE:]X,Y[,SIZE] as (image, (x, y[, size])), in pixels. Raises ArgumentTypeError."""
    image, colon, numbers = text.rpartition(":")
    try:
        found = tuple(int(n) for n in numbers.split(","))
    except ValueError:
        found = ()
    if len(found) not in (2, 3) or min(found) < 0 or found[2:] == (0,):
        raise argparse.ArgumentTypeError(f"{text!r} is not [IMAGE:]X,Y[,SIZE] in pixels")
    return (image if colon else None), found
