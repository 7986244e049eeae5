"""Rows of images, columns of methods, with magnified regions under the same frames in every column."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import thin
from figures.images import bare, error_map, magnify, show
from figures.regions import Region
from figures.style import CM, PALETTE, PAPER, FigureError, Look, bold, plain, style, text_width, wrap

FRAMES = (PALETTE[5], PALETTE[4], PALETTE[3], PALETTE[2])  # of the regions, seen on black and on white
NARROWEST = 1.5 * CM / 8  # inches of a panel per point of text
SHARE = 0.995  # of the pixels of the reconstructions lie inside the colour range of the error maps

Place = Callable[[int, float, float, float], Axes]  # (column, left within it, top, height) in inches


@dataclass(frozen=True)
class Panel:
    """An image and its quality, None where it has none to show."""

    image: Tensor  # (1 or 3, H, W), shown on the scale [0, 1]
    psnr: float | None = None
    ssim: float | None = None


Row = dict[str, Panel]  # by method, in order; the first is the clean image


@dataclass(frozen=True)
class Grid:
    """Lengths of the layout in inches. More methods than fit side by side continue on further lines."""

    look: Look
    names: list[str]
    per_line: int
    zooms: int  # regions below each image
    errors: bool

    @property
    def width(self) -> float:
        """Width of a panel."""
        return (self.look.width - self.edge + self.look.gap) / self.per_line - self.look.gap

    @property
    def edge(self) -> float:
        """Width of both halves of a frame's line that stick out of the outer panels."""
        return self.look.line / 72

    def left(self, column: int) -> float:
        return self.edge / 2 + column * (self.width + self.look.gap)

    @property
    def inset(self) -> float:
        return (self.width + self.look.gap) / max(1, self.zooms) - self.look.gap

    @property
    def one_line(self) -> bool:
        return text_width("PSNR (dB) / SSIM", self.look) <= self.width

    def lines(self) -> list[list[str]]:
        return [self.names[i : i + self.per_line] for i in range(0, len(self.names), self.per_line)]

    def title(self, names: list[str]) -> float:
        return self.look.row * max(wrap(name, self.width, self.look).count("\n") + 1 for name in names)

    def block(self, row: Row) -> float:
        """Return the height of the images of one line of a row, without titles."""
        h, w = next(iter(row.values())).image.shape[1:]
        whole, gap = self.width * h / w, self.look.gap
        label = self.look.row * (1 if self.one_line else 2)
        return (1 + self.errors) * (whole + gap) + bool(self.zooms) * (self.inset + gap) + label


def draw(rows: list[Row], regions: list[list[Region]], errors: bool = False, look: Look = PAPER) -> Figure:
    """Draw rows[i][method] with the magnified regions[i] below each image, and PSNR and SSIM, the best in bold.

    With `errors` there are maps of |image - clean| on one colour scale for the whole figure. Grey values are never
    rescaled: 0 is black, 1 is white. Raises FigureError where a method lacks an image.
    """
    names = list(rows[0])
    for number, row in enumerate(rows, 1):
        _check(row, names, number)
    lines = math.ceil(len(names) / max(1, int((look.width + look.gap) / (NARROWEST * look.text + look.gap))))
    grid = Grid(look, names, math.ceil(len(names) / lines), max(map(len, regions), default=0), errors)
    peak = _peak(rows) if errors else 0.0
    with style(look):
        heights = [[_title(grid, i, line) + grid.block(row) for line in grid.lines()] for i, row in enumerate(rows)]
        total = sum(map(sum, heights)) + look.gap * (len(rows) * lines - 1)
        figure = Figure(figsize=(look.width, total))
        top = 0.0
        for i, row in enumerate(rows):
            for line, height in zip(grid.lines(), heights[i], strict=True):
                block = _Block(figure, grid, top + _title(grid, i, line))
                for column, name in enumerate(line):
                    block.draw(column, row, name, regions[i], peak)
                    if _title(grid, i, line):
                        block.title(column, name)
                top += height + look.gap
    return figure


def _title(grid: Grid, row: int, line: list[str]) -> float:
    """Return the height of the titles: once above a column, and above every line where a row has several."""
    return grid.title(line) if row == 0 or len(grid.lines()) > 1 else 0.0


def _check(row: Row, names: list[str], number: int) -> None:
    shape = next(iter(row.values())).image.shape
    for name in names:
        if name not in row:
            raise FigureError(f"row {number} has no image of {name!r}")
        if row[name].image.shape != shape:
            raise FigureError(f"row {number}: {name!r} is {_size(row[name].image)}, not {_size(row[names[0]].image)}")


def _size(image: Tensor) -> str:
    c, h, w = image.shape
    return f"{w} x {h} {'grey' if c == 1 else 'colour'}"


def _peak(rows: list[Row]) -> float:
    """Return the end of the colour range, which all but a few pixels of the reconstructions stay below."""
    ends = []
    for row in rows:
        clean, *others = row.values()
        reconstructions = [p for name, p in row.items() if name not in ("degraded", "measured")][1:] or others
        ends += [float(error_map(p.image, clean.image).double().quantile(SHARE)) for p in reconstructions]
    return max(ends, default=0.0) or 1.0


@dataclass(frozen=True)
class _Block:
    """The panels of one line of a row, `top` inches below the upper edge of the figure."""

    figure: Figure
    grid: Grid
    top: float

    def place(self, column: int, left: float, top: float, size: tuple[float, float]) -> Axes:
        width, total = self.grid.look.width, self.figure.get_figheight()
        x, y = self.grid.left(column) + left, self.top + top
        return self.figure.add_axes((x / width, 1 - (y + size[1]) / total, size[0] / width, size[1] / total))

    def title(self, column: int, name: str) -> None:
        x = self.grid.left(column) + self.grid.width / 2
        y = self.top - 0.3 * self.grid.look.text / 72
        text = plain(wrap(name, self.grid.width, self.grid.look))
        self._text(x, y, align="baseline", s=text, linespacing=1.0)

    def draw(self, column: int, row: Row, name: str, regions: list[Region], peak: float) -> None:
        grid, panel, clean = self.grid, row[name], next(iter(row.values()))
        height = grid.width * panel.image.shape[1] / panel.image.shape[2]
        whole = self.place(column, 0, 0, (grid.width, height))
        show(whole, panel.image)
        top = height + grid.look.gap
        for i, region in enumerate(regions):
            inset = self.place(column, i * (grid.inset + grid.look.gap), top, (grid.inset, grid.inset))
            magnify(whole, inset, panel.image, region, FRAMES[i % len(FRAMES)], grid.look.line)
        top += bool(grid.zooms) * (grid.inset + grid.look.gap)
        if grid.errors and panel is clean:
            self._color_bar(column, top, height, peak)
        elif grid.errors:
            axes = self.place(column, 0, top, (grid.width, height))
            bare(axes)
            error = error_map(panel.image, clean.image).numpy()
            axes.imshow(error, cmap="magma", vmin=0, vmax=peak, interpolation="auto")
        top += grid.errors * (height + grid.look.gap)
        self._label(column, top, row, name)

    def _color_bar(self, column: int, top: float, height: float, peak: float) -> None:
        """Draw the colour bar in the place of the clean image's error, which is zero."""
        look, inset = self.grid.look, 0.6 * self.grid.look.text / 72
        thick = 0.8 * look.text / 72
        axes = self.place(column, self.grid.width - thick, top + inset, (thick, height - 2 * inset))
        bar = self.figure.colorbar(ScalarMappable(Normalize(0, peak), "magma"), cax=axes, extend="max", extendfrac=0.06)
        bar.set_ticks(_ticks(peak))
        thin(bar)
        axes.yaxis.set_ticks_position("left")
        axes.yaxis.set_label_position("left")
        axes.set_ylabel("error", labelpad=2)
        axes.tick_params(length=look.text / 4, pad=look.text / 6)

    def _label(self, column: int, top: float, row: Row, name: str) -> None:
        panel, parts = row[name], []
        if name == next(iter(row)) and panel.psnr is None:
            parts = ["PSNR (dB)", "SSIM"] if any(p.psnr is not None for p in row.values()) else []
        for digits, quality in ((2, "psnr"), (3, "ssim")):
            values = [getattr(p, quality) for p in row.values() if getattr(p, quality) is not None]
            value = getattr(panel, quality)
            if value is not None:
                best = len(values) > 2 and value == max(values)
                parts.append(bold(f"{value:.{digits}f}") if best else f"{value:.{digits}f}")
        x = self.grid.left(column) + self.grid.width / 2
        self._text(x, self.top + top, s=(" / " if self.grid.one_line else "\n").join(parts), linespacing=1.0)

    def _text(self, x: float, y: float, align: str = "top", **what: object) -> None:
        width, total = self.grid.look.width, self.figure.get_figheight()
        self.figure.text(x / width, 1 - y / total, ha="center", va=align, **what)  # type: ignore[arg-type]


def _ticks(peak: float) -> list[float]:
    step = 10 ** math.floor(math.log10(peak))
    step = next(s * step for s in (5, 2, 1, 0.5) if s * step <= peak / 2)
    return [i * step for i in range(int(peak / step + 1e-9) + 1)]
