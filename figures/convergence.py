"""The lower level on one image: the bound on ||x_k - argmin h|| and the true error, gradient by gradient."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import legend, log_y, new_figure, share_x, tidy
from figures.style import PALETTE, PAPER, Look, plain, style


@dataclass(frozen=True)
class Descent:
    """Bound and error where a solver computed its n-th gradient, n = 1, 2, ..."""

    bound: Tensor  # (N,), ||grad h(x)|| / mu
    error: Tensor  # (N,), ||x - argmin h||


def draw(descents: dict[str, Descent], accuracy: float, look: Look = PAPER) -> Figure:
    """Draw bounds and errors (N,) by the name of the solver, and mark the accuracy asked for."""
    with style(look):
        figure = new_figure(look, min(0.55 * look.width, 20 * look.text / 72))
        axes = figure.add_subplot()
        for i, descent in enumerate(descents.values()):
            gradients = np.arange(1, len(descent.bound) + 1)
            axes.plot(gradients, descent.bound.numpy(), color=PALETTE[i])
            axes.plot(gradients, descent.error.numpy(), "--", color=PALETTE[i])
        axes.axhline(accuracy, color="0.5", linestyle=":")
        axes.set_ylabel(r"distance to $\mathrm{argmin}\ h$")
        log_y(axes)
        tidy(axes)
        share_x([axes], "gradients of $h$")
        names = {plain(name): {"color": PALETTE[i]} for i, name in enumerate(descents)}
        kinds = {"bound": {"color": "black"}, "true": {"color": "black", "linestyle": "--"}}
        legend(figure, names | kinds | {"accuracy asked for": {"color": "0.5", "linestyle": ":"}}, look)
    return figure
