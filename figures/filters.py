"""A learned filter bank, strongest experts first. Filters whose responses a potential takes together stay together."""

import math

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from figures.axes import thin
from figures.images import bare
from figures.style import PAPER, Look, style, text_width

COLORS = "RdBu_r"


def order(filters: Tensor, weights: Tensor) -> Tensor:  # (d G, C, s, s), (G, 1, 1) -> (G,)
    """Return experts, or groups of d that follow each other, by their contribution w_k ||c_k||, the largest first."""
    return (weights.flatten() * filters.reshape(len(weights), -1).norm(dim=1)).argsort(descending=True)


def draw(
    filters: Tensor,
    weights: Tensor,
    smoothings: Tensor,
    look: Look = PAPER,
    frequency: bool = False,
    common_range: bool = False,
) -> Figure:
    """Draw filters (d G, C, s, s) with the weights and smoothings (G, 1, 1) of groups of d, and their frequency
    responses on demand. The colour range is symmetric, so zero is white. Every filter has its own range, or with
    `common_range` all have one and a colour bar. Colour filters are shown around mid-grey."""
    bank, w, s = (t.detach().cpu() for t in (filters, weights.flatten(), smoothings.flatten()))
    peaks = bank.abs().amax((1, 2, 3)).clamp(min=1e-30)
    limits = [float(peaks.max())] * len(peaks) if common_range else peaks.tolist()
    size = len(bank) // len(w)
    with style(look):
        grid = _Grid(look, len(w), size, frequency, common_range and bank.shape[1] == 1)
        figure = Figure(figsize=(look.width, grid.height))
        for place, k in enumerate(order(bank, w).tolist()):
            lowest = []
            for r, (kernel, end) in enumerate(zip(bank[k * size :][:size], limits[k * size :][:size], strict=True)):
                axes = figure.add_axes(grid.rectangle(place, r, 0))
                bare(axes)
                axes.imshow(pixels(kernel, end), cmap=COLORS, vmin=-end, vmax=end, interpolation="nearest")
                for spine in axes.spines.values():
                    spine.set(visible=True, linewidth=0.4 * look.line, color="0.6")
                if frequency:
                    axes = figure.add_axes(grid.rectangle(place, r, 1))
                    bare(axes)
                    axes.imshow(response(kernel).numpy(), cmap="viridis", vmin=0, interpolation="nearest")
                lowest.append(axes)
            middle = grid.group / 2 / grid.side
            lowest[0].set_xlabel(parameters(w[k], s[k]), x=middle, labelpad=look.text / 8, linespacing=1.0)
        if grid.bar:
            shown = ScalarMappable(Normalize(-limits[0], limits[0]), COLORS)
            thin(figure.colorbar(shown, cax=figure.add_axes(grid.bar_rectangle()), orientation="horizontal"))
    return figure


def pixels(kernel: Tensor, limit: float) -> np.ndarray:  # (C, s, s) -> (s, s) or (s, s, 3)
    """Return a grey filter as it is, or a colour filter around mid-grey with `limit` as the end of the range."""
    return kernel[0].numpy() if len(kernel) == 1 else (0.5 + 0.5 * kernel / limit).permute(1, 2, 0).numpy()


def parameters(weight: Tensor, smoothing: Tensor) -> str:  # scalar, scalar
    """Write the weight and the smoothing of an expert in two lines."""
    return f"$w$ {_short(weight)}\n$s$ {_short(smoothing)}"


def response(kernel: Tensor, size: int = 63) -> Tensor:  # (C, s, s) -> (size, size)
    """Return (sum_c |c^(w)|^2)^(1/2) for w in [-pi, pi]^2, zero frequency in the middle."""
    return torch.fft.fftshift(torch.fft.fft2(kernel, s=(size, size)), dim=(1, 2)).abs().square().sum(0).sqrt()


def _short(value: Tensor) -> str:
    """Write two digits, without the exponent's padding: 0.012, 3.4e-5."""
    mantissa, e, exponent = f"{float(value):#.2g}".partition("e")
    return f"{mantissa}{e}{int(exponent)}" if e else mantissa


class _Grid:
    """Places of the filters in inches, those of a group closer to each other, and the rectangles of their axes."""

    def __init__(self, look: Look, groups: int, size: int, frequency: bool, bar: bool) -> None:
        narrowest = text_width("w 0.0012", look)
        self.look, self.parts, self.bar = look, 2 if frequency else 1, bar
        most = int((look.width + look.gap) / (narrowest + look.gap)) // size
        even = (c for c in range(max(1, most), int(0.7 * most), -1) if groups % c == 0)
        rows = math.ceil(groups / max(1, most))
        self.columns = next(even, max(math.ceil(groups / rows), min(most, 4)))
        edge, self.within = look.line / 72, look.gap / 4
        self.group = (look.width - edge + look.gap) / self.columns - look.gap
        self.side = (self.group - (size - 1) * self.within) / size
        self.block = self.parts * (self.side + look.gap) + 2 * look.row
        self.below = (2.2 * look.row + look.gap) if bar else 0.0
        self.height = edge + math.ceil(groups / self.columns) * (self.block + look.gap) - look.gap + self.below

    def rectangle(self, group: int, place: int, part: int) -> tuple[float, float, float, float]:
        row, column = divmod(group, self.columns)
        edge = self.look.line / 144
        left = edge + column * (self.group + self.look.gap) + place * (self.side + self.within)
        top = edge + row * (self.block + self.look.gap) + part * (self.side + self.look.gap)
        return self._relative(left, top, self.side, self.side)

    def bar_rectangle(self) -> tuple[float, float, float, float]:
        width = self.look.width / 2
        return self._relative(width / 2, self.height - self.below + self.look.gap, width, 0.6 * self.look.row)

    def _relative(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        total = self.height
        return left / self.look.width, 1 - (top + height) / total, width / self.look.width, height / total
