"""Training curves of one or several runs."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import TEXT_WIDTH, new_figure, style

Columns = dict[str, list[float]]  # a metrics.csv


def draw(runs: dict[str, Columns]) -> Figure:
    """Loss, PSNR, schedules and cost against the total computations: gradients of h and Hessian products, summed over
    images. One colour per run; the title of each panel says what its line styles mean."""
    with style():
        figure = new_figure(TEXT_WIDTH, 4.2)
        (loss, psnr), (schedule, cost) = figure.subplots(2, 2)
        for i, run in enumerate(runs.values()):
            color, x = f"C{i}", np.array(run["computations"])
            _smooth(loss, x, run["loss"], color)
            _smooth(psnr, x, run["psnr"], color)
            held_out = np.array(run["validation_psnr"])
            seen = np.isfinite(held_out)
            psnr.plot(x[seen], held_out[seen], "o--", color=color, markersize=3)
            schedule.plot(x, run["accuracy"], color=color)
            schedule.plot(x, run["step_size"], ":", color=color)
            _smooth(cost, x, run["lower_iterations"], color)
            _smooth(cost, x, run["linear_iterations"], color, "--")
        loss.set(title="loss of the batch", ylabel=r"$\frac{1}{2}\|x - x^\star\|^2$", yscale="log")
        psnr.set(title="PSNR: training (solid), held out (dashed)", ylabel="dB")
        schedule.set(title=r"accuracy $\epsilon_k$ (solid), step $\alpha_k$ (dotted)", yscale="log")
        cost.set(title="gradients of $h$ (solid), Hessian products (dashed)", ylabel="per image", ylim=(0, None))
        for axes in (loss, psnr, schedule, cost):
            axes.ticklabel_format(axis="x", scilimits=(0, 0), useMathText=True)
            axes.grid(True, linewidth=0.3, alpha=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in (schedule, cost):
            axes.set_xlabel("total computations")
        handles = [loss.plot([], [], color=f"C{i}", label=name)[0] for i, name in enumerate(runs)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(runs)), frameon=False)
    return figure


def _smooth(axes: Axes, x: np.ndarray, y: list[float], color: str, line: str = "-") -> None:
    """Running mean over a fortieth of the steps; the steps themselves stay visible behind it."""
    values, window = np.array(y), max(1, len(y) // 40)
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    if window > 1:
        axes.plot(x, values, line, color=color, alpha=0.15, linewidth=0.5)
    axes.plot(x[window - 1 :], mean, line, color=color)
