"""Training curves of one or several runs."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import TEXT_WIDTH, new_figure, style

Columns = dict[str, list[float]]  # a metrics.csv


def draw(runs: dict[str, Columns]) -> Figure:
    """Loss, PSNR, accuracy and step size, and cost against the total computations: gradients of h and Hessian products,
    summed over images."""
    with style():
        figure = new_figure(TEXT_WIDTH, 4.2)
        (loss, psnr), (schedule, cost) = figure.subplots(2, 2)
        for i, (name, run) in enumerate(runs.items()):
            color = f"C{i}"
            x = np.array(run["computations"])
            window = max(1, len(x) // 40)
            _smooth(loss, x, run["loss"], window, color, name)
            _smooth(psnr, x, run["psnr"], window, color, f"{name}, training")
            held_out = np.array(run["validation_psnr"])
            seen = np.isfinite(held_out)
            if seen.any():
                psnr.plot(x[seen], held_out[seen], "o--", color=color, markersize=3, label=f"{name}, held out")
            schedule.plot(x, run["accuracy"], color=color, label=f"{name}, accuracy $\\epsilon_k$")
            schedule.plot(x, run["step_size"], ":", color=color, label=f"{name}, step $\\alpha_k$")
            _smooth(cost, x, run["lower_iterations"], window, color, f"{name}, gradients of $h$")
            _smooth(cost, x, run["linear_iterations"], window, color, f"{name}, Hessian products", "--")
        loss.set(ylabel=r"loss $\frac{1}{2}\|x - x^\star\|^2$", yscale="log")
        psnr.set(ylabel="PSNR (dB)")
        schedule.set(ylabel="schedules", yscale="log")
        cost.set(ylabel="computations per image", ylim=(0, None))
        for axes in (loss, psnr, schedule, cost):
            axes.grid(True, linewidth=0.3, alpha=0.6)
            axes.legend(frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in (loss, psnr, schedule, cost):
            axes.set_xlabel("total computations")
            axes.ticklabel_format(axis="x", scilimits=(0, 0))
    return figure


def _smooth(axes: Axes, x: np.ndarray, y: list[float], window: int, color: str, label: str, line: str = "-") -> None:
    """Running mean over `window` steps; the steps themselves stay visible behind it."""
    values = np.array(y)
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    if window > 1:
        axes.plot(x, values, line, color=color, alpha=0.15, linewidth=0.5)
    axes.plot(x[window - 1 :], mean, line, color=color, label=label)
