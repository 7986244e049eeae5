"""Rows of images, columns of methods, with a magnified region under the same frame in every column."""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from figures.style import TEXT_WIDTH, new_figure, style

FRAME = "#E69F00"


@dataclass(frozen=True)
class Panel:
    image: Tensor  # (1 or 3, H, W), shown on the scale [0, 1]
    psnr: float | None = None
    ssim: float | None = None


def draw(rows: list[dict[str, Panel]], crop: int) -> Figure:
    """rows[i][method] -> figure. Each row shows the whole images and, below, the crop x crop region where the methods
    differ most. Grey values are never rescaled: 0 is black, 1 is white."""
    columns = list(rows[0])
    width = TEXT_WIDTH / len(columns)
    heights = [h for row in rows for h in _relative_heights(row)]
    with style():
        figure = new_figure(TEXT_WIDTH, width * sum(heights) + 0.32 * len(rows) + 0.2)
        axes = figure.subplots(2 * len(rows), len(columns), height_ratios=heights, squeeze=False)
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore[union-attr]
        for i, row in enumerate(rows):
            corner = most_different_region(list(row.values()), crop)
            for j, name in enumerate(columns):
                _draw_panel(axes[2 * i, j], axes[2 * i + 1, j], row[name], corner, crop)
                if i == 0:
                    axes[0, j].set_title(name)
    return figure


def most_different_region(panels: list[Panel], crop: int) -> tuple[int, int]:
    """Top-left (row, column) of the crop x crop region with the largest variance between the reconstructions.

    The first panel is the reference and the second the measurement; with no more than one reconstruction, it is the
    region where the reference has most structure.
    """
    reconstructions = [p.image for p in panels[2:]]
    if len(reconstructions) > 1:
        difference = torch.stack(reconstructions).var(0).sum(0)
    else:
        gradient = torch.stack(torch.gradient(panels[0].image, dim=(1, 2)))
        difference = gradient.square().sum((0, 1)).sqrt()
    h, w = difference.shape
    window = (min(crop, h), min(crop, w))
    means = torch.nn.functional.avg_pool2d(difference[None, None].double(), window, stride=1)[0, 0]
    place = int(means.argmax())
    return place // means.shape[1], place % means.shape[1]


def _relative_heights(row: dict[str, Panel]) -> tuple[float, float]:
    """Of the image row and of the square insets, in column widths."""
    h, w = next(iter(row.values())).image.shape[1:]
    return h / w, 1.0


def _draw_panel(whole: Axes, inset: Axes, panel: Panel, corner: tuple[int, int], crop: int) -> None:
    _show(whole, panel.image)
    row, column = corner
    whole.add_patch(Rectangle((column - 0.5, row - 0.5), crop, crop, fill=False, edgecolor=FRAME, linewidth=1))
    _show(inset, panel.image[:, row : row + crop, column : column + crop])
    for spine in inset.spines.values():
        spine.set(visible=True, color=FRAME, linewidth=1)
    if panel.psnr is not None:
        inset.set_xlabel(f"{panel.psnr:.2f} dB / {panel.ssim:.3f}")
    else:
        inset.set_xlabel("PSNR / SSIM")


def _show(axes: Axes, image: Tensor) -> None:
    pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
    axes.imshow(
        pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
