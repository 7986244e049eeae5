"""Evaluations side by side."""

from math import isfinite
from pathlib import Path

from matplotlib.figure import Figure

from app.drawing.sources import labelled
from app.evaluation.tables import read_csv
from app.settings.options import ConfigError
from datasets.files import home_expanded
from figures import table, tradeoff
from figures.style import PAPER, Look
from figures.table import Evaluated

SAME = 0.01  # dB, by which two devices may measure an image differently


def evaluations(files: list[str]) -> dict[str, Evaluated]:
    """Read what `evaluate --csv` wrote, by the label of the file. Raises ConfigError."""
    named = labelled(files)
    for label, _ in named:
        if sum(other == label for other, _ in named) > 1:
            raise ConfigError(f"two files are called {label!r}: name them with LABEL=FILE")
    read = {label: _with_certificates(read_csv(home_expanded(file))) for label, file in named}
    if any(not Path(image).suffix for evaluated in read.values() for column in evaluated.values() for image in column):
        read = {label: {name: _by_stem(column) for name, column in found.items()} for label, found in read.items()}
    _check_same(read)
    return read


def _check_same(read: dict[str, Evaluated]) -> None:
    """Raise ConfigError where an image was measured in two ways: with other noise, or another operator."""
    known: dict[str, tuple[str, float]] = {}
    for label, evaluated in read.items():
        for image, psnr in evaluated.get("psnr_degraded", {}).items():
            other, before = known.setdefault(image, (label, psnr))
            if abs(psnr - before) > SAME:
                raise ConfigError(
                    f"{other} and {label} began with different measurements of {image}: their PSNR was {before:.2f} "
                    f"and {psnr:.2f} dB"
                )


def _with_certificates(evaluated: Evaluated) -> Evaluated:
    """Add whether the error of an image is certified, 1 or 0, where the method has error bounds at all."""
    bounds = evaluated.get("error_bound")
    if bounds is None:
        return evaluated
    return evaluated | {"certified": {image: float(isfinite(bound)) for image, bound in bounds.items()}}


def _by_stem(column: dict[str, float]) -> dict[str, float]:
    """Name images as older files do. Raises ConfigError where these names coincide."""
    short = {Path(image).stem: value for image, value in column.items()}
    if len(short) < len(column):
        raise ConfigError("images of the same name but for their suffix: evaluate again what is older")
    return short


def draw_tradeoff(files: list[str], x: str = "seconds", look: Look = PAPER) -> Figure:
    """Draw PSNR against a cost of evaluations, [LABEL=]CSV. Raises ConfigError and FigureError."""
    return tradeoff.draw(evaluations(files), x, look)


def write_table(
    files: list[str], metrics: tuple[str, ...] = ("psnr", "ssim"), errors: bool = True, suffix: str = ".md"
) -> str:
    """Return a table of evaluations, [LABEL=]CSV: LaTeX for .tex, Markdown for .md. Raises ConfigError, FigureError."""
    write = {".tex": table.latex, ".md": table.markdown}[suffix]
    return write(evaluations(files), metrics, errors)
