"""What every kind of figure takes on the command line. Imports nothing heavy."""

import argparse
from collections.abc import Callable
from pathlib import Path

Container = argparse._ActionsContainer  # a parser or a group of its options
Add = Callable[[Container], None]

MODELS = "[LABEL=]MODEL_OR_FOLDER"
RUNS = "[LABEL=]RUN"
TABLES = "[LABEL=]CSV"
CURVES = ("loss", "psnr", "accuracy", "step_size", "iterations", "products")
METRICS = ("psnr", "ssim", "error_bound", "iterations", "seconds")


def add_kinds(figure: argparse.ArgumentParser, data_root: Add, problem: Add) -> None:
    """One subcommand per kind, each with the options that mean something to it."""
    kinds = figure.add_subparsers(title="kinds", metavar="KIND", required=True, dest="kind")

    def kind(name: str, about: str, sources: tuple[str, str], suffixes: tuple[str, ...]) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=about, description=about)
        metavar, explanation = sources
        many = explanation.endswith("...")
        sub.add_argument("sources", nargs="+" if many else 1, metavar=metavar, help=explanation.removesuffix(" ..."))
        sub.add_argument("--out", type=Path, required=True, metavar="FILE", help=" or ".join(suffixes))
        sub.set_defaults(suffixes=suffixes)
        return sub

    def still(name: str, about: str, sources: tuple[str, str]) -> argparse.ArgumentParser:
        sub = kind(name, about, sources, (".pdf", ".svg", ".png"))
        _look(sub)
        return sub

    comparison = still(
        "comparison",
        "rows of images, columns of methods: clean, degraded, and every source",
        (MODELS, "models, or folders of results named like the images ..."),
    )
    _images(comparison, data_root, problem)
    where = comparison.add_mutually_exclusive_group()
    where.add_argument(
        "--zooms", type=_count, default=1, metavar="N",
        help="magnify the N regions where the methods' errors differ most, 0 to 4 (default: 1)",
    )  # fmt: skip
    where.add_argument(
        "--at", type=_place, action="append", metavar="[IMAGE:]X,Y[,SIZE]",
        help="magnify the region with this upper left pixel instead, in all images or the one named (repeatable)",
    )  # fmt: skip
    comparison.add_argument(
        "--crop", type=positive, default=64, metavar="PIXELS", help="side of the magnified regions (default: 64)"
    )
    comparison.add_argument("--errors", action="store_true", help="maps of |image - clean| on one colour scale")

    filters = still("filters", "learned filters, the largest contribution first", ("MODEL", "a field of experts"))
    filters.add_argument("--frequency", action="store_true", help="with their frequency responses")
    filters.add_argument("--common-range", action="store_true", help="one colour range for all, with a colour bar")
    potentials = still("potentials", "learned potentials and their influence functions", ("MODEL", "a model"))
    for sub in (filters, potentials):
        sub.add_argument(
            "--noise-level", metavar="SIGMA",
            help="of a model for many noise levels, at this one, such as 15/255 (default: problem.noise_level)",
        )  # fmt: skip

    curves = still(
        "curves",
        "training curves; runs that differ in their seed alone, or share a LABEL, become one curve with a band",
        (RUNS, "run folders ..."),
    )
    curves.add_argument("--x", choices=("step", "computations", "seconds"), default="computations", help="against what")
    curves.add_argument("--log-x", action="store_true", help="logarithmic x-axis")
    curves.add_argument(
        "--panels", type=names(CURVES), default=CURVES, metavar="NAME,...", help=f"which of {', '.join(CURVES)}"
    )

    parameters = still("parameters", "how weights and smoothings evolved", ("RUN", "a run folder with a history"))
    parameters.add_argument("--log-x", action="store_true", help="logarithmic x-axis")

    convergence = still(
        "convergence",
        "certified bound and true error of both lower-level solvers on one image",
        ("MODEL", "a model"),
    )
    _images(convergence, data_root, problem)
    convergence.add_argument(
        "--accuracy", type=float, metavar="EPS", help="where the solvers stop (default: lower.final_accuracy)"
    )

    contrasts = still(
        "contrasts",
        "one image as it was measured, after the guide and in the end, and where how much was taken for noise",
        ("MODEL", "an adaptive model"),
    )
    _images(contrasts, data_root, problem)

    tradeoff = still("tradeoff", "PSNR against cost per image", (TABLES, "files of `evaluate --csv` ..."))
    tradeoff.add_argument("--x", choices=("seconds", "iterations"), default="seconds", help="which cost")

    table = kind(
        "table", "means and standard errors of evaluations", (TABLES, "files of `evaluate --csv` ..."), (".tex", ".md")
    )
    table.add_argument(
        "--metrics", type=names(METRICS), default=("psnr", "ssim"), metavar="NAME,...",
        help=f"which of {', '.join(METRICS)} (default: psnr,ssim)",
    )  # fmt: skip
    table.add_argument("--no-errors", action="store_true", help="means only")

    animation = kind(
        "animation",
        "a reconstruction (with --images), or the filters of a run while it learned",
        ("MODEL_OR_RUN", "a model, or a run folder with a history"),
        (".gif", ".png"),
    )
    _look(animation, style="talk")
    _images(animation, data_root, problem)
    animation.add_argument("--fps", type=float, default=8.0, help="frames per second (default: 8)")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _look(sub: argparse.ArgumentParser, style: str = "paper") -> None:
    group = sub.add_argument_group("look")
    group.add_argument(
        "--style", choices=("paper", "talk", "web"), default=style,
        help=f"text of 8, 18 or 9 pt and the widths that go with it (default: {style})",
    )  # fmt: skip
    group.add_argument("--width", default="double", metavar="WIDTH", help="single, double (default) or a number of cm")
    group.add_argument("--dpi", type=positive, help="resolution of PNG and GIF (default: 300, 150 or 192 by style)")
    group.add_argument("--latex-text", action="store_true", help="texts set by LaTeX, which must be installed")


def _images(sub: argparse.ArgumentParser, data_root: Add, problem: Add) -> None:
    group = sub.add_argument_group("images and what is measured of them")
    group.add_argument("--images", metavar="SET", help="clean images: SET, SET:SPLIT+SPLIT, a folder or an image")
    group.add_argument("--only", action="append", metavar="NAME", help="only the image of this name (repeatable)")
    data_root(group)
    problem(group)


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 4:
        raise argparse.ArgumentTypeError("must be 0 to 4")
    return number


def names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"unknown {name!r}; known are {', '.join(known)}")
        return chosen

    return parse


def _place(text: str) -> tuple[str | None, tuple[int, ...]]:
    """[IMAGE:]X,Y[,SIZE] -> (image, (x, y[, size]))."""
    image, colon, numbers = text.rpartition(":")
    try:
        place = tuple(int(n) for n in numbers.split(","))
    except ValueError:
        place = ()
    if len(place) not in (2, 3) or min(place) < 0 or place[2:] == (0,):
        raise argparse.ArgumentTypeError(f"{text!r} is not [IMAGE:]X,Y[,SIZE] in pixels")
    return (image if colon else None), place
