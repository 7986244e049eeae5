"""A learned filter bank, strongest experts first."""

import math

from matplotlib.figure import Figure
from torch import Tensor

from figures.style import TEXT_WIDTH, new_figure, style


def draw(filters: Tensor, weights: Tensor, smoothings: Tensor, columns: int = 8) -> Figure:
    """filters (K, C, s, s), weights and smoothings (K, 1, 1) -> figure; sorted by weight times filter norm.

    Grey filters use one symmetric colour range each, so zero is white; colour filters are shown around mid-grey.
    """
    strength = (weights.flatten() * filters.flatten(1).norm(dim=1)).cpu()
    order = strength.argsort(descending=True)
    columns = min(columns, len(order))
    rows = math.ceil(len(order) / columns)
    with style():
        width = TEXT_WIDTH / columns
        figure = new_figure(TEXT_WIDTH, rows * (width + 0.27))
        axes = figure.subplots(rows, columns, squeeze=False)
        for a in axes.flat:
            a.set_axis_off()
        for a, k in zip(axes.flat, order.tolist(), strict=False):
            image = filters[k].detach().cpu()
            peak = float(image.abs().max()) or 1.0
            if image.shape[0] == 1:
                a.imshow(image[0].numpy(), cmap="RdBu_r", vmin=-peak, vmax=peak, interpolation="nearest")
            else:
                a.imshow((0.5 + 0.5 * image / peak).permute(1, 2, 0).numpy(), interpolation="nearest")
            a.set_title(f"w {float(weights[k]):.2g}\ns {float(smoothings[k]):.2g}", fontsize=6, pad=2)
    return figure
