"""Quality against cost, for a few methods or many.

A filled mark is a method whose reconstructions all have a certified error, a hollow one a method of which some have
none. A method without such a cost (nothing of it was learned, it takes no gradients) is a dotted line at its PSNR.
"""

import math
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.axes import legend, line_width, new_figure, share_x, tidy
from figures.labels import Anchors, add_labels
from figures.style import PALETTE, PAPER, FigureError, Look, plain, style
from figures.table import Evaluated, standard_error

COSTS = {
    "seconds": "seconds per image",
    "iterations": "gradients of $h$ per image",
    "parameters": "learned parameters",
    "training": "seconds of training",
}
LINE: dict[str, Any] = {"color": "0.4", "linestyle": ":"}
FEW = 3  # methods that have a colour each, every image drawn, and error bars of their own
KINDS = {True: "certified", False: "not certified"}
WITHOUT = {
    "seconds": "not timed", "iterations": "takes no gradients", "parameters": "nothing learned", "training": "unknown",
}  # fmt: skip


def draw(methods: dict[str, Evaluated], x: str = "seconds", look: Look = PAPER) -> Figure:
    """Draw the mean PSNR of each method against its mean cost. A few methods have all their images and their standard
    errors; many, whose errors are alike because they share the images, have one error bar of their mean length. Raises
    FigureError where a method has no PSNR, and where none has the cost."""
    for name, evaluated in methods.items():
        if "psnr" not in evaluated:
            raise FigureError(f"{name} has no metric 'psnr'; it has {', '.join(evaluated)}")
    marked = {name: evaluated for name, evaluated in methods.items() if x in evaluated}
    if not marked:
        raise FigureError(f"{', '.join(methods)}: no metric {x!r}")
    costs = [fmean(evaluated[x].values()) for evaluated in marked.values()]
    with style(look):
        few, size = len(methods) <= FEW, 0.6 * look.text
        figure = new_figure(look, min((0.6 if few else 0.75) * look.width, 22 * look.text / 72))
        axes, anchors = figure.add_subplot(), Anchors()
        for i, (name, evaluated) in enumerate(marked.items()):
            color = PALETTE[i] if few else PALETTE[not is_certified(evaluated)]
            anchors[plain(name)] = [_mark(axes, evaluated, x, _shape(color, is_certified(evaluated), size), few)]
        bar = [] if few else _error_bar(axes, list(methods.values()))
        axes.set_ylabel("PSNR (dB)")
        tidy(axes)
        share_x([axes], COSTS[x], log=min(costs) > 0 and max(costs) > 10 * min(costs))
        kinds = [kind for kind in KINDS if kind in map(is_certified, marked.values())]
        entries = {KINDS[k]: _shape("0.3" if few else PALETTE[not k], k, size) for k in kinds}
        for name, evaluated in methods.items():
            if name not in marked:
                anchors[plain(name)] = _line(axes, fmean(evaluated["psnr"].values()))
                entries[WITHOUT[x]] = LINE
        legend(figure, entries, look)
        add_labels(figure, axes, anchors, size, look, bar)
    return figure


def is_certified(evaluated: Evaluated) -> bool:
    """Say whether every reconstruction has a proven bound on its distance to the minimiser of its energy."""
    certified = evaluated.get("certified", {})
    return evaluated["psnr"].keys() <= certified.keys() and all(certified.values())


def _shape(color: str, certified: bool, size: float) -> dict[str, Any]:
    return {
        "marker": "o", "linestyle": "", "color": color, "markersize": size, "markeredgewidth": line_width(),
        "markerfacecolor": color if certified else "white",
    }  # fmt: skip


def _mark(axes: Axes, evaluated: Evaluated, x: str, shape: dict[str, Any], every: bool) -> tuple[float, float]:
    """Draw a method, with every image and the standard error or without, and return the point of its mean."""
    cost, quality = evaluated[x], evaluated["psnr"]
    if every and len(quality) > 1:
        both = [(cost[image], quality[image]) for image in quality if image in cost]
        small = {"markersize": shape["markersize"] / 2, "markeredgewidth": 0, "alpha": 0.3}
        axes.plot(*zip(*both, strict=True), "o", color=shape["color"], **small)
    mean = fmean(cost.values()), fmean(quality.values())
    axes.errorbar(*mean, standard_error(list(quality.values())) if every else None, **shape)
    return mean


def _error_bar(axes: Axes, methods: list[Evaluated]) -> list[Artist]:
    """Draw a bar of the mean standard error to both sides, below on the right, where no good method is."""
    error = fmean(standard_error(list(evaluated["psnr"].values())) for evaluated in methods)
    if not math.isfinite(error):
        return []
    low, place = min(fmean(evaluated["psnr"].values()) for evaluated in methods), axes.get_yaxis_transform()
    bar = axes.plot([0.97, 0.97], [low, low + 2 * error], "_-", transform=place, color="0.3")
    text = axes.text(0.95, low, "± standard error", transform=place, ha="right", va="bottom", color="0.3")
    axes.update_datalim(np.array([[0, low], [0, low + 2 * error]]), updatex=False)
    return [text, *bar]


def _line(axes: Axes, quality: float) -> list[tuple[float, float]]:
    """Draw a line through the axes, and return points along it where its name may stand."""
    axes.axhline(quality, **LINE)
    along = [axes.transAxes.transform((share, 0)) for share in np.linspace(0.1, 0.9, 9)]
    return [(float(axes.transData.inverted().transform(place)[0]), quality) for place in along]
