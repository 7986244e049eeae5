"""What a figure puts on paper."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure

from figures.style import Look, style

DPI = 100


@dataclass(frozen=True)
class Written:
    """One line of text and its box in inches, y downwards."""

    text: str
    size: float  # points
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Written") -> bool:
        tolerance = 0.01
        return (
            min(self.right, other.right) - max(self.left, other.left) > tolerance
            and min(self.bottom, other.bottom) - max(self.top, other.top) > tolerance
        )


class _Recorder(RendererAgg):
    def __init__(self, figure: Figure) -> None:
        super().__init__(*(figure.get_size_inches() * DPI), DPI)
        self.written: list[Written] = []

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        w, h, d = self.get_text_width_height_descent(s, prop, ismath)
        box = (x - h + d, y - w, x + d, y) if angle == 90 else (x, y - h + d, x + w, y + d)
        self.written.append(Written(s, prop.get_size_in_points(), *(v / DPI for v in box)))


def written(figure: Figure, look: Look) -> list[Written]:
    """All text that is drawn, and nothing that is not."""
    with style(look):
        figure.set_dpi(DPI)
        recorder = _Recorder(figure)
        figure.draw(recorder)  # type: ignore[arg-type]
    return recorder.written


def margins(figure: Figure, look: Look) -> tuple[float, ...]:
    """Inches of white left, right, above and below."""
    with style(look):
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        dark = np.asarray(canvas.buffer_rgba())[..., :3].min(2) < 250
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    h, w = dark.shape
    return tuple(float(n) / DPI for n in (columns[0], w - 1 - columns[-1], rows[0], h - 1 - rows[-1]))


def pdf_fonts(file: Path) -> dict[str, bool]:
    """Kinds of font in a PDF whose objects are not compressed."""
    data = file.read_bytes()
    return {name: f"/{name}".encode() in data for name in ("FontFile2", "CIDFontType2", "Type3", "Type1")}
