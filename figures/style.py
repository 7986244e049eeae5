"""Sizes, fonts and colours that all figures share, and files whose bytes depend on their content alone."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.textpath import TextPath

CM = 1 / 2.54  # inches

# Okabe and Ito's palette without its yellow: distinct for the colour-blind.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


class FigureError(ValueError):
    """A figure cannot be drawn; the message names what is missing or wrong."""


@dataclass(frozen=True)
class Look:
    """The width of a figure and the size of every text in it, which follow from where it will be seen."""

    width: float  # inches
    text: float = 8  # points
    line: float = 1.0  # points
    font: str = "STIXGeneral"  # comes with matplotlib, so that every machine draws the same
    dpi: int = 300  # of a PNG
    latex: bool = False  # texts set by LaTeX

    @property
    def gap(self) -> float:
        """Inches between panels."""
        return self.text / 200

    @property
    def row(self) -> float:
        """Inches of a line of text."""
        return 1.25 * self.text / 72


# Columns of Springer's journals, in cm; those of IEEE (8.9, 18.2), Nature (8.9, 18.3) and Elsevier (9, 19) are wider.
# A slide of 16:9 is 33.9 cm wide, a column of a web page about 19 cm.
WIDTHS = {"paper": (8.4, 17.4), "talk": (14.5, 30.0), "web": (9.5, 19.0)}
LOOKS = {
    "paper": Look(0),
    "talk": Look(0, text=18, line=2.5, font="DejaVu Sans", dpi=150),
    "web": Look(0, text=9, line=1.2, font="DejaVu Sans", dpi=192),
}


def look(style: str = "paper", width: str = "double", latex: bool = False) -> Look:
    """Return the look of a style (paper, talk, web) and a width (single, double, or in cm). Raises FigureError."""
    single, double = WIDTHS[style]
    try:
        cm = {"single": single, "double": double}.get(width) or float(width.removesuffix("cm"))
    except ValueError:
        cm = 0.0
    if not 2 <= cm <= 200:
        raise FigureError(f"--width {width}: give single, double or 2 to 200 cm")
    missing = [program for program in ("latex", "dvipng") if latex and shutil.which(program) is None]
    if missing:
        raise FigureError(f"text set by LaTeX needs {' and '.join(missing)}, which this machine does not have")
    return replace(LOOKS[style], width=cm * CM, latex=latex)


PAPER = look()
TEXTS = ("axes.titlesize", "axes.labelsize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize")


@contextmanager
def style(look: Look = PAPER) -> Iterator[None]:
    """Draw what follows in this look, whatever the user's matplotlibrc says."""
    thin = 0.6 * look.line
    settings: dict[Any, Any] = {
        "font.size": look.text,
        "font.family": look.font,
        "mathtext.fontset": "stix" if look.font == "STIXGeneral" else "dejavusans",
        "text.usetex": look.latex,
        **dict.fromkeys(TEXTS, look.text),
        **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), thin),
        **dict.fromkeys(("xtick.minor.width", "ytick.minor.width", "grid.linewidth"), thin / 2),
        "lines.linewidth": look.line,
        "axes.titlepad": look.text / 2,
        "axes.labelpad": look.text / 8,
        "axes.formatter.use_mathtext": True,
        "pdf.fonttype": 42,
        "svg.hashsalt": "figure",
        "figure.dpi": 100,
        "axes.prop_cycle": cycler(color=PALETTE),
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def plain(text: str) -> str:
    """Write a name so that LaTeX and mathtext show its characters as they are."""
    return escape(text) if matplotlib.rcParams["text.usetex"] else text.replace("$", r"\$")


def escape(text: str) -> str:
    """Write a name so that LaTeX shows its characters."""
    special = {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"} | {c: f"\\{c}" for c in "_%&#${}"}
    return text.translate(str.maketrans(special))


def bold(number: str) -> str:
    """Write a number in bold mathtext."""
    return rf"$\mathbf{{{number}}}$"


@cache
def text_width(text: str, look: Look) -> float:
    """Return the width of one line in inches."""
    path = TextPath((0, 0), text, prop=FontProperties(family=look.font, size=look.text, weight="bold"))
    return float(path.get_extents().width) / 72 if text else 0.0


def wrap(text: str, width: float, look: Look) -> str:
    """Cut a name into lines of at most `width` inches, after a separator where there is one."""
    lines, line = [], ""
    for letter in text:
        if line and text_width(line + letter, look) > width:
            cut = max(line.rfind(separator) for separator in " -_/") + 1
            cut = cut or len(line)
            lines.append(line[:cut].rstrip())
            line = line[cut:]
        line += letter
    return "\n".join([*lines, line])


def save(figure: Figure, file: str | Path, look: Look = PAPER, dpi: int | None = None) -> None:
    """Save a figure that is drawn to its end before the file is touched; the suffix chooses the format."""
    Path(file).write_bytes(encoded(figure, Path(file).suffix, look, dpi))


def encoded(figure: Figure, suffix: str, look: Look = PAPER, dpi: int | None = None) -> bytes:
    """Return the bytes of a .png, .pdf or .svg file without dates and versions, so that the same figure gives the same
    bytes. PDF and SVG hold whole images at their own resolution."""
    unwanted = {".pdf": ("CreationDate", "Producer", "Creator"), ".svg": ("Date", "Creator")}.get(suffix, ("Software",))
    whole = [i for i in figure.findobj(AxesImage) if isinstance(i, AxesImage) and i.get_interpolation() == "auto"]
    for image in whole:
        image.set_interpolation("auto" if suffix == ".png" else "none")
    file = io.BytesIO()
    with style(look):
        metadata = dict.fromkeys(unwanted)
        figure.savefig(file, format=suffix[1:], dpi=dpi or look.dpi, metadata=metadata)
    for image in whole:
        image.set_interpolation("auto")
    return file.getvalue()
