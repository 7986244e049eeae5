"""Images and their errors on axes: true grey values, never rescaled."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from figures.regions import Region


def magnify(whole: Axes, inset: Axes, image: Tensor, region: Region, color: str, line: float) -> None:
    """Show a region of an image (1 or 3, H, W) in the inset, and frame it in the whole. line: width in points."""
    corner = (region.column - 0.5, region.row - 0.5)
    frame = Rectangle(corner, region.size, region.size, fill=False, edgecolor=color, linewidth=line, clip_on=False)
    whole.add_patch(frame)
    show(inset, region.of(image), "nearest")
    for spine in inset.spines.values():
        spine.set(visible=True, color=color, linewidth=line)


def as_shown(image: Tensor) -> np.ndarray:  # (1 or 3, H, W) -> (H, W, 3), 8 bit
    """Return 8-bit pixels, rounded; 0 is black and 1 is white. Matplotlib's own conversions miss by one."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()


def show(axes: Axes, image: Tensor, interpolation: str = "auto") -> None:
    """Show an image (1 or 3, H, W) on the true grey scale."""
    axes.imshow(as_shown(image), interpolation=interpolation)
    bare(axes)


def bare(axes: Axes) -> None:
    """Take ticks and lines off the axes."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def error_map(image: Tensor, clean: Tensor) -> Tensor:  # (C, H, W), (C, H, W) -> (H, W)
    """Return the mean of |image - clean| over the channels, of images clipped to [0, 1] as they are shown."""
    return (image.clamp(0, 1) - clean).abs().mean(0)
