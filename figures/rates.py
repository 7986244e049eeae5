"""How fast methods converge on problems of known minimum: one panel for each problem, one line for each method."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import legend, log_y, panels, share_x, tidy
from figures.style import PALETTE, PAPER, Look, plain, style

STYLES = ("-", "--", ":", "-.")
MOST = 2000  # points of a line


def draw(
    problems: dict[str, dict[str, Tensor]], x: str, y: str, look: Look = PAPER, log_x: bool = False
) -> Figure:  # {problem: {method: (K,)}}
    """Draw values after 1, 2, ..., K steps, y > 0 on a logarithmic axis. Methods of one name share a line style."""
    names = list(dict.fromkeys(name for lines in problems.values() for name in lines))
    lines = {name: {"color": PALETTE[i], "linestyle": STYLES[i % len(STYLES)]} for i, name in enumerate(names)}
    with style(look):
        figure, shown = panels(len(problems), look, most=2 if len(problems) == 4 else 3)
        for axes, (title, methods) in zip(shown, problems.items(), strict=True):
            for name, values in methods.items():
                steps = _thinned(len(values), log_x)
                axes.plot(steps, values.numpy()[steps - 1], **lines[name])  # type: ignore[arg-type]
            axes.set_title(plain(title))
            log_y(axes)
            tidy(axes)
            share_x([axes], x, log=log_x)
        shown[0].set_ylabel(y)
        legend(figure, {plain(name): line for name, line in lines.items()}, look)
    return figure


def _thinned(count: int, log: bool) -> np.ndarray:
    """Return at most MOST steps of 1 ... count, even on the axis that shows them."""
    space = np.geomspace if log else np.linspace
    return np.unique(space(1, count, min(count, MOST)).round().astype(int))
