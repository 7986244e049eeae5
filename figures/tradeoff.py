"""Quality against cost per image, for several models."""

from statistics import fmean

from matplotlib.figure import Figure

from figures.axes import legend, new_figure, share_x, tidy
from figures.style import PALETTE, PAPER, FigureError, Look, plain, style
from figures.table import Evaluated, standard_error

COSTS = {
    "seconds": "seconds per image",
    "iterations": "gradients of $h$ per image",
    "parameters": "learned parameters",
}
MARKERS = "osD^vP*X"


def draw(models: dict[str, Evaluated], x: str = "seconds", look: Look = PAPER) -> Figure:
    """Draw a faint point per image and the mean of each model with its standard errors. Raises FigureError for a
    missing metric."""
    for name, evaluated in models.items():
        for metric in (x, "psnr"):
            if metric not in evaluated:
                raise FigureError(f"{name} has no metric {metric!r}; it has {', '.join(evaluated)}")
    with style(look):
        figure = new_figure(look, min(0.6 * look.width, 22 * look.text / 72))
        axes, lines = figure.add_subplot(), {}
        for i, (name, evaluated) in enumerate(models.items()):
            color, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            cost, quality = list(evaluated[x].values()), list(evaluated["psnr"].values())
            size = 1.2 * look.text / 8
            axes.plot(cost, quality, marker, color=color, markersize=2 * size, alpha=0.3, markeredgewidth=0)
            axes.errorbar(
                fmean(cost), fmean(quality), standard_error(quality), standard_error(cost),
                marker=marker, color=color, markersize=4 * size, markeredgecolor="white", markeredgewidth=0.4 * size,
            )  # fmt: skip
            lines[plain(name)] = {"color": color, "marker": marker, "linestyle": "", "markersize": 4 * size}
        axes.set_ylabel("PSNR (dB)")
        tidy(axes)
        costs = [value for evaluated in models.values() for value in evaluated[x].values()]
        share_x([axes], COSTS[x], log=min(costs) > 0 and max(costs) > 10 * min(costs))
        legend(figure, lines, look)
    return figure
