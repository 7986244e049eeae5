"""What an adaptive field of experts finds pixel by pixel: thresholds, and masks where it has them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import new_figure, thin
from figures.images import bare, show
from figures.style import PAPER, Look, plain, style

SHARE = 0.995  # of the pixels lie inside the colour range
NARROW = 0.01  # the least range of masks


def draw(images: dict[str, Tensor], thresholds: Tensor, masks: Tensor | None = None, look: Look = PAPER) -> Figure:
    """Draw images (1 or 3, H, W) by their titles on the true grey scale, then the thresholds 1 / g and the masks m,
    (K, H, W) each.

    Of thresholds the geometric mean over the filters is shown on a logarithmic scale, in units of its median, because a
    common factor belongs to the weights as well. They tell how large a response is taken for noise. Of masks the mean
    over the filters is shown: with which share R counts.
    """
    logarithm = thresholds.detach().double().log().mean(0)
    h, w = logarithm.shape
    columns = len(images) + 1 + (masks is not None)
    with style(look):
        figure = new_figure(look, look.width / columns * h / w + 4 * look.row)
        panels, bars = figure.subplots(2, columns, height_ratios=(1, 0.06), squeeze=False)
        for axes, (title, image) in zip(panels, images.items(), strict=False):
            show(axes, image)
            axes.set_title(plain(title))
        for axes in bars[: len(images)]:
            axes.set_axis_off()
        mean = (logarithm - logarithm.median()).exp().cpu().numpy()
        reach = max(float(np.quantile(np.maximum(mean, 1 / mean), SHARE)), 1.05)
        tick = reach**0.8
        axes, bar = panels[len(images)], bars[len(images)]
        axes.set_title("threshold / median")
        _map(axes, bar, mean, LogNorm(1 / reach, reach), "RdBu_r", (1 / tick, 1, tick))
        if masks is not None:
            mean = masks.detach().double().mean(0).cpu().numpy()
            low, high = np.quantile(mean, (1 - SHARE, SHARE))
            low, high = min(low, high - NARROW), high
            panels[-1].set_title("mask")
            _map(panels[-1], bars[-1], mean, Normalize(low, high), "viridis", np.linspace(low, high, 5)[1::2])
    return figure


def _map(axes: Axes, bar: Axes, values: np.ndarray, norm: Normalize, colors: str, ticks: tuple[float, ...]) -> None:
    """Show values (H, W) in colours, and what the colours mean in the axes below."""
    shown = axes.imshow(values, cmap=colors, norm=norm, interpolation="auto")
    bare(axes)
    drawn = axes.get_figure(root=True).colorbar(shown, cax=bar, orientation="horizontal", extend="both")  # type: ignore[union-attr]
    drawn.set_ticks(ticks, labels=[f"{value:.2f}" for value in ticks])
    drawn.minorticks_off()
    thin(drawn)
