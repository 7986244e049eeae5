"""Thresholds of an adaptive field of experts: how large a response it takes for noise, pixel by pixel."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import new_figure, thin
from figures.images import bare, show
from figures.style import PAPER, Look, plain, style

SHARE = 0.995  # of the pixels lie inside the colour range


def draw(images: dict[str, Tensor], thresholds: Tensor, look: Look = PAPER) -> Figure:
    """Draw images (1 or 3, H, W) by their titles on the true grey scale, then the thresholds 1 / g (K, H, W). Shown is
    the geometric mean of the thresholds over the filters on a logarithmic scale, in units of its median, because a
    common factor belongs to the weights as well."""
    logarithm = thresholds.detach().double().log().mean(0)
    mean = (logarithm - logarithm.median()).exp().cpu().numpy()
    reach = max(float(np.quantile(np.maximum(mean, 1 / mean), SHARE)), 1.05)
    h, w = mean.shape
    with style(look):
        figure = new_figure(look, look.width / (len(images) + 1.25) * h / w + 1.5 * look.row)
        axes = figure.subplots(1, len(images) + 1, squeeze=False)[0]
        for a, (title, image) in zip(axes[:-1], images.items(), strict=True):
            show(a, image)
            a.set_title(plain(title))
        shown = axes[-1].imshow(mean, cmap="RdBu_r", norm=LogNorm(1 / reach, reach), interpolation="auto")
        bare(axes[-1])
        axes[-1].set_title("threshold / median")
        bar = figure.colorbar(shown, ax=list(axes), fraction=0.05, pad=0.01, extend="both")
        tick = reach**0.8
        bar.set_ticks([1 / tick, 1, tick], labels=[f"{value:.2f}" for value in (1 / tick, 1, tick)])
        bar.minorticks_off()
        thin(bar)
    return figure
