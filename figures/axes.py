"""Axes of charts: ticks, names and legends are the same in every figure."""

import math
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from figures.style import CM, Look, text_width


def new_figure(look: Look, height: float) -> Figure:
    """Return a figure of this height in inches, outside pyplot: nothing is to be closed, and no display is needed."""
    figure = Figure(figsize=(look.width, height), layout="constrained")
    engine = figure.get_layout_engine()
    engine.set(w_pad=look.gap / 2, h_pad=look.gap / 2, wspace=0.03, hspace=0.03)  # type: ignore[union-attr, call-arg]
    return figure


def panels(count: int, look: Look, most: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes, none narrower than 4 cm in print, at most `most` in a row."""
    columns = min(count, most, max(1, int(look.width / (0.5 * look.text * CM))))
    rows = math.ceil(count / columns)
    height = min(0.7 * look.width / columns, 15 * look.text / 72)
    figure = new_figure(look, rows * height)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def tidy(axes: Axes) -> None:
    """Keep only the lines that carry numbers."""
    axes.grid(True, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def line_width() -> float:
    """Return the width of lines in the present style, in points."""
    return matplotlib.rcParams["lines.linewidth"]


def log_y(axes: Axes) -> None:
    """Make the y-axis logarithmic, with legible ticks. The data must be drawn before."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 2 * low:
        low, high = low / 2.5, high * 2.5  # a constant, or nearly
    ticks = log_ticks(low, high)
    axes.set_yticks(ticks, [decimal(v) for v in ticks])
    axes.set_ylim(low, high)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _log_x_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    ticks = log_ticks(low, high, (1, 3))
    axes.set_xticks(ticks, [decimal(v) for v in ticks])
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float, mantissas: tuple[int, ...] = (1, 2, 5)) -> list[float]:
    """Return ticks between low and high. They are mantissas times powers of ten within two decades, at most five powers
    of ten in a larger range, and round numbers in a very short one."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if high / low >= 100:
        exponents, mantissas = exponents[:: math.ceil(len(exponents) / 6)], (1,)
    ticks = [m * 10.0**e for e in exponents for m in mantissas]
    ticks = [v for v in ticks if low <= v <= high]
    return ticks if len(ticks) > 1 else [v for v in MaxNLocator(3).tick_values(low, high) if low <= v <= high]


def decimal(value: float) -> str:
    """Write a number as a decimal (0.05, 2000), or with a power of ten where that has many zeros."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = f"{value / 10**exponent:.3g}"
    return f"$10^{{{exponent}}}$" if mantissa == "1" else rf"${mantissa}{{\cdot}}10^{{{exponent}}}$"


def share_x(shown: list[Axes], name: str, log: bool = False) -> None:
    """Give all panels one range of x; its ticks and `name` stand below the lowest panel of each column. Large numbers
    are in units of a power of ten, which stands in the name."""
    for axes in shown:
        axes.set_xscale("log" if log else "linear")
    limits = [axes.get_xlim() for axes in shown]
    low, high = min(a for a, _ in limits), max(b for _, b in limits)
    exponent = math.floor(math.log10(high)) if high >= 1e4 and not log else 0
    spec, text = shown[0].get_subplotspec(), matplotlib.rcParams["font.size"] / 72
    width = shown[0].get_figure(root=True).get_figwidth() / (spec.get_gridspec().ncols if spec else 1)  # type: ignore[union-attr]
    ticks = max(3, min(8, int(width / (4.5 * text))))
    for axes in shown:
        axes.set_xlim(low, high)
        if log:
            _log_x_ticks(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 10**exponent:g}"))
        if _is_lowest(axes, shown):
            axes.set_xlabel(name + (rf" ($10^{{{exponent}}}$)" if exponent else ""))
        else:
            axes.tick_params(axis="x", labelbottom=False)


def _is_lowest(axes: Axes, shown: list[Axes]) -> bool:
    places = [(spec.colspan.start, spec.rowspan.start) for a in shown if (spec := a.get_subplotspec())]
    mine = places[shown.index(axes)]
    return all(row <= mine[1] for column, row in places if column == mine[0])


def legend(figure: Figure, lines: dict[str, dict[str, Any]], look: Look) -> None:
    """Add names and their lines above the axes, as many side by side as fit. The figure grows by that height."""
    em = look.text / 72
    widths = [text_width(name, look) + 4.8 * em for name in lines]
    fitting = len(lines) if sum(widths) < look.width else int(look.width / max(widths))
    axes = figure.axes[0]
    handles = [axes.plot([], [], label=name, **line)[0] for name, line in lines.items()]
    columns = max(1, min(len(lines), fitting))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, borderpad=0.1)
    figure.set_figheight(figure.get_figheight() + math.ceil(len(lines) / columns) * 1.2 * look.row)


def weight_bar(figure: Figure, axes: list[Axes], norm: LogNorm, name: str) -> None:
    """Add a logarithmic colour bar of weights, in the colours of `viridis_r`, beside the axes."""
    bar = figure.colorbar(ScalarMappable(norm, "viridis_r"), ax=axes, pad=0.01, aspect=25)
    bar.set_label(name)
    ticks = log_ticks(float(norm.vmin or 0), float(norm.vmax or 0), (1, 2, 3, 5))
    bar.set_ticks(ticks, labels=[decimal(v) for v in ticks])
    bar.minorticks_off()
    thin(bar)


def thin(bar: Colorbar) -> None:
    """Draw the outline of a colour bar with a thin line."""
    bar.outline.set_linewidth(0.4 * line_width())  # type: ignore[operator]
