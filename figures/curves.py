"""Training curves of one or several runs; runs that differ in their seed alone become a mean with its range.

The range is a band on the part of the x-axis that all of these runs cover. Where they cover none (each was validated
once, after its own number of computations), it is a pair of error bars around the mean of their ends.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.axes import legend, line_width, log_y, panels, share_x, tidy
from figures.style import PAPER, FigureError, Look, plain, style

Columns = dict[str, list[float]]  # a metrics.csv; what a method does not have is missing or NaN
Groups = dict[str, list[Columns]]  # by name; the runs of a group differ in their seed


@dataclass(frozen=True)
class Quantity:
    """What a panel shows: a column of metrics.csv."""

    title: str
    column: str
    log: bool = False
    smooth: bool = False  # noisy: a running mean is shown, and a single run's own values faintly behind


QUANTITIES = {
    "loss": Quantity("loss of the batch", "loss", log=True, smooth=True),
    "psnr": Quantity("held-out PSNR (dB)", "validation_psnr"),
    "accuracy": Quantity(r"accuracy $\epsilon_k$", "accuracy", log=True),
    "step_size": Quantity(r"step size $\alpha_k$", "step_size", log=True),
    "iterations": Quantity("gradients/image", "lower_iterations", smooth=True),
    "products": Quantity("Hessian products/image", "linear_iterations", smooth=True),
}
ABSCISSAE = {"step": "step $k$", "computations": "total computations", "seconds": "seconds of training"}
POINTS = 400  # of the common axis of a band
FEW = 30  # points of a curve that are marked


def draw(
    groups: Groups,
    x: str = "computations",
    quantities: tuple[str, ...] = tuple(QUANTITIES),
    log_x: bool = False,
    look: Look = PAPER,
) -> Figure:
    """Draw one panel per quantity that any run has, with one colour per group. "computations" are gradients of h,
    Hessian products and preconditioners, summed over images. Raises FigureError where there is nothing to draw."""
    for name, runs in groups.items():
        if not all(_finite(run, x).any() for run in runs):
            raise FigureError(f"{name} has no values of {x!r} to draw against")
    columns = [QUANTITIES[name].column for name in quantities]
    all_runs = [run for runs in groups.values() for run in runs]
    shown = [q for q, c in zip(quantities, columns, strict=True) if any(_finite(run, c).any() for run in all_runs)]
    if not shown:
        raise FigureError(f"{', '.join(groups)}: no values of {', '.join(columns)}")
    with style(look):
        figure, shown_axes = panels(len(shown), look)
        for axes, name in zip(shown_axes, shown, strict=True):
            _panel(axes, QUANTITIES[name], groups, x, log_x)
        share_x(shown_axes, ABSCISSAE[x], log_x)
        if len(groups) > 1 or len(all_runs) > 1:
            legend(figure, {_label(n, runs): {"color": f"C{i}"} for i, (n, runs) in enumerate(groups.items())}, look)
    return figure


def compare(groups: Groups, look: Look = PAPER) -> Figure:
    """Draw methods side by side, one colour per group. Loss and held-out PSNR are drawn against total computations and
    against seconds, accuracies and step sizes against total computations."""
    layout = [
        ("loss", "computations"), ("psnr", "computations"), ("accuracy", "computations"),
        ("loss", "seconds"), ("psnr", "seconds"), ("step_size", "computations"),
    ]  # fmt: skip
    with style(look):
        figure, shown_axes = panels(len(layout), look)
        for axes, (name, x) in zip(shown_axes, layout, strict=True):
            _panel(axes, QUANTITIES[name], groups, x, False)
        for x in ("computations", "seconds"):
            share_x([axes for axes, (_, at) in zip(shown_axes, layout, strict=True) if at == x], ABSCISSAE[x])
        legend(figure, {_label(n, runs): {"color": f"C{i}"} for i, (n, runs) in enumerate(groups.items())}, look)
    return figure


def _label(name: str, runs: list[Columns]) -> str:
    return plain(name) + (f" ({len(runs)} seeds)" if len(runs) > 1 else "")


def _panel(axes: Axes, quantity: Quantity, groups: Groups, x: str, log_x: bool) -> None:
    for i, runs in enumerate(groups.values()):
        curves = [_curve(run, x, quantity) for run in runs if _finite(run, quantity.column).any()]
        if not curves:
            continue
        if len(curves) == 1:
            (xs, ys), raw = curves[0], _points(runs[0], x, quantity.column)
            if quantity.smooth:
                axes.plot(*raw, color=f"C{i}", alpha=0.2, linewidth=0.3 * line_width(), rasterized=True)
        elif covered(curves):
            xs, ys, low, high = band(curves, log_x)
            axes.fill_between(xs, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
        else:
            xs, ys, reach_x, reach_y = ends(curves)
            axes.errorbar(xs, ys, reach_y, reach_x, color=f"C{i}", linewidth=line_width())
        axes.plot(xs, ys, color=f"C{i}", marker="o" if len(xs) <= FEW else "", markersize=2.5 * line_width())
    axes.set_title(quantity.title)
    if quantity.log:
        log_y(axes)
    tidy(axes)


def _finite(run: Columns, column: str) -> np.ndarray:
    return np.isfinite(np.array(run.get(column, []), dtype=float))


def _points(run: Columns, x: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    known = _finite(run, x) & _finite(run, column)
    return np.array(run[x], dtype=float)[known], np.array(run[column], dtype=float)[known]


def _curve(run: Columns, x: str, quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a run; of a noisy quantity the running mean over a fortieth of the steps."""
    xs, ys = _points(run, x, quantity.column)
    window = max(1, len(ys) // 40) if quantity.smooth else 1
    return xs[window - 1 :], np.convolve(ys, np.ones(window) / window, mode="valid")


Curve = tuple[np.ndarray, np.ndarray]  # x (N,) and y (N,)


def covered(curves: list[Curve]) -> bool:
    """Say whether the curves have a part of the x-axis in common that is more than a point."""
    return max(xs[0] for xs, _ in curves) < min(xs[-1] for xs, _ in curves)


def band(curves: list[Curve], log_x: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, mean, lowest and highest (N,) of curves, on the part of the x-axis that all of them cover. They are
    taken at the x of the curves if these share it, else interpolated."""
    first, last = max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves)
    common = curves[0][0]
    if not all(np.array_equal(xs, common) for xs, _ in curves):
        common = np.geomspace(first, last, POINTS) if log_x and first > 0 else np.linspace(first, last, POINTS)
    values = np.stack([np.interp(common, xs, ys) for xs, ys in curves])
    return common, values.mean(0), values.min(0), values.max(0)


def ends(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the means x and y (1,) of the curves' last points, and how far these reach to both sides, (2, 1) each."""
    last = np.array([(xs[-1], ys[-1]) for xs, ys in curves])
    mean = last.mean(0)
    reach = np.stack([mean - last.min(0), last.max(0) - mean])
    return mean[:1], mean[1:], reach[:, :1], reach[:, 1:]
