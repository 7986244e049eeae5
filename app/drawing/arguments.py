"""Arguments of the command line as values, and how their texts are read.

Nothing heavy is imported here, so that `--help` and typing errors answer at once.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from datasets.files import home_expanded

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
    if not equals or "/" in label or home_expanded(text).exists():
        return "", text
    return label, source


def path(text: str) -> Path:
    """Read a path, whose ~ is replaced. Raises ArgumentTypeError where there is none, as of a variable that is not set,
    and where nobody's home folder is meant."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    found = home_expanded(text)
    if str(found).startswith("~"):
        raise argparse.ArgumentTypeError(f"no home folder is known for {text}: of a file of this name, write ./{text}")
    return found


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    """Return a reader of a number from `low` to `high`, which raises ArgumentTypeError for anything else."""

    def read(text: str) -> float:
        try:
            found = kind(text)
        except ValueError:  # which argparse would answer with the whole text, of any length
            found = None
        if found is None or not low <= found <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g}")
        return found

    return read


def numbers(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], tuple[float, ...]]:
    """Return a reader of NUMBER,NUMBER,... which raises ArgumentTypeError for anything else."""
    one = number(kind, low, high)
    return lambda text: tuple(one(part) for part in text.split(","))


def shard(text: str) -> tuple[int, int]:
    """Read i/n, one of n jobs, counted from 1. Raises ArgumentTypeError."""
    first, _, second = text.partition("/")
    digits = first.isascii() and second.isascii() and first.isdigit() and second.isdigit()
    if not digits or max(len(first), len(second)) > 6 or not 1 <= int(first) <= int(second):
        raise argparse.ArgumentTypeError("must be i/n, job i of n jobs, such as 1/8 to 8/8")
    return int(first), int(second)


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


BASELINES = (
    "tv", "wavelet", "nlm", "bm3d", "wiener",
    "drunet", "gsdrunet", "ffdnet", "dncnn", "scunet", "swinir", "restormer", "deal", "ram", "dpir",
)  # fmt: skip
OTHER_METHODS = (
    option(
        "--baselines", type=names(BASELINES), default=(), metavar="NAME,...",
        help="other methods on the same measurements: tv, wavelet, nlm, bm3d to denoise, wiener to deblur; networks of "
        "deepinv: drunet, gsdrunet, ffdnet, dncnn, scunet, swinir, restormer, deal to denoise, dpir to deblur, inpaint "
        "and superres, ram to do all four",
    ),
    option(
        "--weights", type=path, metavar="FOLDER", help="where the weights of networks are, in files of deepinv's names "
        "(default: deepinv downloads them)",
    ),
)  # fmt: skip
