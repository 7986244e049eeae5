"""How the weights and smoothings of all experts evolved while they were learned."""

from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import log_y, panels, share_x, tidy, weight_bar
from figures.style import PALETTE, PAPER, FigureError, Look, style

FEW = 4  # experts with a colour of the palette each; more are coloured by their last weight


def draw(steps: Tensor, weights: Tensor, smoothings: Tensor, log_x: bool = False, look: Look = PAPER) -> Figure:
    """Draw weights and smoothings (T, K) against steps (T,), a line per expert. Raises FigureError for one snapshot."""
    if len(steps) < 2:
        raise FigureError("the history holds a single snapshot: there is nothing to draw yet")
    last = weights[-1]
    norm = LogNorm(float(last.min()), float(last.max())) if len(last) > FEW else None
    with style(look):
        figure, shown = panels(2, look)
        drawn = {"weights $w_k$": weights, "smoothings $s_k$": smoothings}
        for axes, (title, values) in zip(shown, drawn.items(), strict=True):
            for k in last.argsort().tolist():
                color = PALETTE[k] if norm is None else colormaps["viridis_r"](norm(float(last[k])))
                width = look.line * (1.2 if norm is None else 0.6)
                axes.plot(steps.numpy(), values[:, k].numpy(), color=color, linewidth=width)
            axes.set_title(title)
            log_y(axes)
            tidy(axes)
        share_x(shown, "step $k$", log_x)
        if norm is not None:
            weight_bar(figure, shown, norm, "last $w_k$")
    return figure
