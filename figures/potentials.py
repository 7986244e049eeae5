"""The learned potentials phi_k(t; w_k, s_k) and their influence functions phi_k'(t)."""

from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import new_figure, tidy, weight_bar
from figures.style import PALETTE, PAPER, Look, style

FEW = 4  # curves that a legend names


def draw(t: Tensor, potentials: Tensor, influences: Tensor, weights: Tensor, look: Look = PAPER) -> Figure:
    """Draw phi_k(t) and phi_k'(t), both (K, T), at responses t (T,). A colour bar, or for few curves a legend, says
    which curve has which weight (K,)."""
    ordered = weights.argsort()
    norm = LogNorm(float(weights.min()), float(weights.max())) if len(weights) > FEW else None
    with style(look):
        figure = new_figure(look, min(0.4 * look.width, 30 * look.text / 72))
        left, right = figure.subplots(1, 2)
        for rank, k in enumerate(ordered.tolist()):
            color = PALETTE[rank] if norm is None else colormaps["viridis_r"](norm(float(weights[k])))
            label = f"$w$ = {float(weights[k]):.3g}"
            width = look.line * (1.2 if norm is None else 0.7)
            for axes, values in ((left, potentials), (right, influences)):
                axes.plot(t.numpy(), values[k].numpy(), color=color, linewidth=width, label=label)
        names = r"potential $\varphi_k(t)$", r"influence $\mathrm{d}\varphi_k/\mathrm{d}t$"
        for axes, name in zip((left, right), names, strict=True):
            axes.set(title=name, xlabel="filter response $t$", xlim=(t.numpy()[0], t.numpy()[-1]))
            axes.ticklabel_format(axis="y", scilimits=(-2, 3))
            tidy(axes)
        if norm is None:
            left.legend(frameon=False, handlelength=1.2)
        else:
            weight_bar(figure, [left, right], norm, "weight $w_k$")
    return figure
