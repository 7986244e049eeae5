"""The kinds of figures: one record each says what it takes on the command line and which function draws it.

A new kind is a function in figures/ that draws numbers, a function in app/drawing/ that finds them, and an entry here.
The entry names that function as text, because nothing heavy is imported before the arguments are known to be right.
The function takes the sources first (a list where there may be several) and, by their names, the options of its kind,
`settings`, `look` and `suffix`, as far as it has such parameters. It returns a matplotlib Figure, an Animation or text.
"""

import argparse
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from app.drawing.arguments import OTHER_METHODS, Add, either, names, number, numbers, option, path, place

# Names that have their home in figures/, which is heavy to import; a test holds both together.
CURVES = ("loss", "psnr", "accuracy", "step_size", "iterations", "products")
ABSCISSAE = ("step", "computations", "seconds")
METRICS = (
    "psnr", "ssim", "lpips", "error_bound", "certified", "iterations", "seconds", "parameters", "training",
)  # fmt: skip
COSTS = ("seconds", "iterations", "parameters", "training")

STILL = (".pdf", ".svg", ".png")
FILES = "files of `evaluate --csv`"
LOG_X = option("--log-x", action="store_true", help="logarithmic x-axis")
NOISE_LEVEL = option(
    "--noise-level", metavar="SIGMA",
    help="of a model for many noise levels, at this one, such as 15/255 (default: problem.noise_level)",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of figure."""

    name: str
    about: str
    source: str  # as the help shows it
    source_is: str  # what it must be
    many: bool = False  # sources
    draw: str  # module:function
    suffixes: tuple[str, ...] = STILL
    style: str | None = "paper"  # the default of --style; None: text, which has no look
    images: bool = False  # takes images, and what is measured of them
    options: tuple[Add, ...] = ()

    def function(self) -> Any:
        """Return the function that draws this kind."""
        module, _, name = self.draw.partition(":")
        return getattr(import_module(module), name)


TABLE = (
    Kind(
        name="comparison", draw="app.drawing.comparison:draw_comparison", images=True,
        about="rows of images, columns of methods: clean, degraded, every source, and every baseline",
        source="[LABEL=]MODEL_OR_FOLDER", source_is="models, or folders of results named like the images", many=True,
        options=(
            *OTHER_METHODS,
            either(
                option("--zooms", type=number(int, 0, 4), default=1, metavar="N",
                       help="magnify the N regions where the methods' errors differ most, 0 to 4 (default: 1)"),
                option("--at", type=place, action="append", metavar="[IMAGE:]X,Y[,SIZE]",
                       help="magnify the region with this upper left pixel instead, in all images or the one named "
                       "(repeatable)"),
            ),
            option("--crop", type=number(int, 1, 10_000), default=64, metavar="PIXELS",
                   help="side of the magnified regions (default: 64)"),
            option("--errors", action="store_true", help="maps of |image - clean| on one colour scale"),
            option("--measured", metavar="FILE_OR_FOLDER",
                   help="what was measured, instead of simulating it; with --images, files of the same names"),
            option("--range", dest="limits", type=float, nargs=2, metavar=("BLACK", "WHITE"),
                   help="values of black and white in its arrays and float TIFF"),
        ),
    ),
    Kind(
        name="filters", draw="app.drawing.learned:draw_filters",
        about="learned filters, the largest contribution first",
        source="MODEL", source_is="a field of experts",
        options=(
            option("--frequency", action="store_true", help="with their frequency responses"),
            option("--common-range", action="store_true", help="one colour range for all, with a colour bar"),
            NOISE_LEVEL,
        ),
    ),
    Kind(
        name="potentials", draw="app.drawing.learned:draw_potentials",
        about="learned potentials and their influence functions",
        source="MODEL", source_is="a model",
        options=(NOISE_LEVEL,),
    ),
    Kind(
        name="curves", draw="app.drawing.runs:draw_curves",
        about="training curves; runs that differ in their seed alone, or share a LABEL, become one curve with a band",
        source="[LABEL=]RUN", source_is="run folders", many=True,
        options=(
            option("--x", choices=ABSCISSAE, default="computations", help="against what"),
            LOG_X,
            option("--panels", dest="quantities", type=names(CURVES), default=CURVES, metavar="NAME,...",
                   help=f"which of {', '.join(CURVES)}"),
        ),
    ),
    Kind(
        name="reach", draw="app.drawing.runs:write_reach", suffixes=(".tex", ".md"), style=None,
        about="seconds and computations of training until the held-out PSNR reaches a value; means over seeds",
        source="[LABEL=]RUN", source_is="run folders", many=True,
        options=(option("--psnr", dest="levels", type=numbers(float, 0, 200), required=True, metavar="DB,...",
                        help="which values, such as 27,27.5,28"),),
    ),
    Kind(
        name="parameters", draw="app.drawing.runs:draw_parameters",
        about="how weights and smoothings evolved",
        source="RUN", source_is="a run folder with a history",
        options=(LOG_X,),
    ),
    Kind(
        name="convergence", draw="app.drawing.solves:draw_convergence", images=True,
        about="error bound and true error of both lower-level solvers on one image",
        source="MODEL", source_is="a model",
        options=(option("--accuracy", type=number(float, 1e-15, 1e15), metavar="EPS",
                        help="where the solvers stop (default: lower.final_accuracy)"),),
    ),
    Kind(
        name="contrasts", draw="app.drawing.solves:draw_contrasts", images=True,
        about="one image as it was measured, after the guide and in the end, and where how much was taken for noise "
        "(and masks, where the model has them)",
        source="MODEL", source_is="an adaptive model",
    ),
    Kind(
        name="tradeoff", draw="app.drawing.tables:draw_tradeoff",
        about="PSNR against cost, for few methods or many; hollow marks are not certified",
        source="[LABEL=]CSV", source_is=FILES, many=True,
        options=(option("--x", choices=COSTS, default="seconds", help="which cost"),),
    ),
    Kind(
        name="table", draw="app.drawing.tables:write_table", suffixes=(".tex", ".md"), style=None,
        about="means and standard errors of evaluations",
        source="[LABEL=]CSV", source_is=FILES, many=True,
        options=(
            option("--metrics", type=names(METRICS), default=("psnr", "ssim"), metavar="NAME,...",
                   help=f"which of {', '.join(METRICS)} (default: psnr,ssim)"),
            option("--no-errors", dest="errors", action="store_false", help="means only"),
        ),
    ),
    Kind(
        name="animation", draw="app.drawing.solves:animate", suffixes=(".gif", ".png"), style="talk", images=True,
        about="a reconstruction (with --images), or the filters of a run while it learned",
        source="MODEL_OR_RUN", source_is="a model, or a run folder with a history",
        options=(option("--fps", type=number(float, 0.1, 100), default=8.0, help="frames per second (default: 8)"),),
    ),
)  # fmt: skip
KINDS = {kind.name: kind for kind in TABLE}


def add_kinds(figure: argparse.ArgumentParser, data_root: Add, problem: Add) -> None:
    """Add one subcommand per kind, each with the options that mean something to it."""
    kinds = figure.add_subparsers(title="kinds", metavar="KIND", required=True, dest="kind")
    for kind in TABLE:
        sub = kinds.add_parser(kind.name, help=kind.about, description=kind.about)
        sub.add_argument("sources", nargs="+" if kind.many else 1, metavar=kind.source, help=kind.source_is)
        sub.add_argument("--out", type=path, required=True, metavar="FILE", help=" or ".join(kind.suffixes))
        if kind.style is not None:
            _add_look(sub, kind.style)
        if kind.images:
            group = sub.add_argument_group("images and what is measured of them")
            about = "clean images: SET, SET:SPLIT+SPLIT, a folder or an image"
            group.add_argument("--images", metavar="SET", help=about)
            about = "only the image of this name (repeatable)"
            group.add_argument("--only", action="append", metavar="NAME", help=about)
            data_root(group)
            problem(group)
        for add in kind.options:
            add(sub)


def _add_look(sub: argparse.ArgumentParser, style: str) -> None:
    group = sub.add_argument_group("look")
    group.add_argument(
        "--style", choices=("paper", "talk", "web"), default=style,
        help=f"text of 8, 18 or 9 pt and the widths that go with it (default: {style})",
    )  # fmt: skip
    group.add_argument("--width", default="double", metavar="WIDTH", help="single, double (default) or a number of cm")
    group.add_argument(
        "--dpi", type=number(int, 1, 1200), help="resolution of PNG and GIF (default: 300, 150 or 192 by style)"
    )
    group.add_argument("--latex-text", action="store_true", help="texts set by LaTeX, which must be installed")
