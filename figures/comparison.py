"""Rows of images, columns of methods, with a magnified region under the same frame in every column."""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from figures.style import TEXT_WIDTH, style

FRAME = "#E69F00"


@dataclass(frozen=True)
class Panel:
    image: Tensor  # (1 or 3, H, W), shown on the scale [0, 1]
    psnr: float | None = None
    ssim: float | None = None


GAP, LABEL = 0.04, 0.2  # inches between panels, and for a line of text


def draw(rows: list[dict[str, Panel]], crop: int) -> Figure:
    """rows[i][method] -> figure. Each row shows the whole images and, below, the crop x crop region where the methods
    differ most. Grey values are never rescaled: 0 is black, 1 is white."""
    columns = list(rows[0])
    width = (TEXT_WIDTH + GAP) / len(columns) - GAP
    heights = [width * _aspect(row) for row in rows]
    total = LABEL + sum(heights) + len(rows) * (width + 2 * GAP + LABEL)
    with style():
        figure = Figure(figsize=(TEXT_WIDTH, total))

        def place(column: int, top: float, height: float) -> Axes:
            left = column * (width + GAP)
            return figure.add_axes((left / TEXT_WIDTH, 1 - (top + height) / total, width / TEXT_WIDTH, height / total))

        top = LABEL
        for i, (row, height) in enumerate(zip(rows, heights, strict=True)):
            corner = most_different_region(list(row.values()), crop)
            for j, name in enumerate(columns):
                whole, inset = place(j, top, height), place(j, top + height + GAP, width)
                _draw_panel(whole, inset, row[name], corner, crop)
                if i == 0:
                    whole.set_title(name, pad=3)
            top += height + width + 2 * GAP + LABEL
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


def _aspect(row: dict[str, Panel]) -> float:
    h, w = next(iter(row.values())).image.shape[1:]
    return h / w


def _draw_panel(whole: Axes, inset: Axes, panel: Panel, corner: tuple[int, int], crop: int) -> None:
    _show(whole, panel.image)
    row, column = corner
    whole.add_patch(Rectangle((column - 0.5, row - 0.5), crop, crop, fill=False, edgecolor=FRAME, linewidth=1))
    _show(inset, panel.image[:, row : row + crop, column : column + crop])
    for spine in inset.spines.values():
        spine.set(visible=True, color=FRAME, linewidth=1)
    label = "PSNR / SSIM" if panel.psnr is None else f"{panel.psnr:.2f} dB / {panel.ssim:.3f}"
    inset.set_xlabel(label, labelpad=2)


def _show(axes: Axes, image: Tensor) -> None:
    pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
    axes.imshow(
        pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
