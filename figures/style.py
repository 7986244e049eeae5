"""What all figures share: sizes, fonts, and files whose bytes depend on their content alone."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

TEXT_WIDTH = 6.9  # inches, two columns of the common journals

SETTINGS: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "svg.hashsalt": "figure",
    "figure.dpi": 100,
    # Okabe and Ito's palette: distinct for the colour-blind.
    "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]),
}


@contextmanager
def style():
    with matplotlib.rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure outside pyplot's registry: nothing to close, no display needed."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path, dpi: int = 300) -> None:
    """Deterministic: no dates or versions inside."""
    metadata = {".pdf": {"CreationDate": None, "Producer": None, "Creator": None}, ".svg": {"Date": None}}
    with style():
        figure.savefig(path, dpi=dpi, metadata=metadata.get(path.suffix, {"Software": None}))
