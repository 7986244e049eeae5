"""Blur kernels side by side: what measured, what learning started from, what it found."""

from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import new_figure
from figures.images import bare
from figures.style import PAPER, Look, plain, style


def draw(kernels: dict[str, Tensor], look: Look = PAPER) -> Figure:
    """{title: kernel (h, w)} -> figure; all on one scale from 0 to the largest entry, pixels of one size, pixel
    (h // 2, w // 2) in the middle of every panel."""
    peak = max(float(k.detach().max()) for k in kernels.values())
    reach = max(max(k.shape) // 2 for k in kernels.values()) + 0.5
    with style(look):
        figure = new_figure(look, look.width / (len(kernels) + 0.4) + 2 * look.row)
        axes = figure.subplots(1, len(kernels), squeeze=False)[0]
        for a, (title, kernel) in zip(axes, kernels.items(), strict=True):
            h, w = kernel.shape
            edges = (-(w // 2) - 0.5, w - w // 2 - 0.5, h - h // 2 - 0.5, -(h // 2) - 0.5)
            shown = a.imshow(
                kernel.detach().cpu().numpy(), cmap="magma", vmin=0, vmax=peak, extent=edges, interpolation="nearest"
            )
            a.set(title=plain(title), xlim=(-reach, reach), ylim=(reach, -reach))
            bare(a)
        figure.colorbar(shown, ax=list(axes), format="%.2g", fraction=0.05)
    return figure
