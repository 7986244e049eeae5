"""A learned filter bank, strongest experts first."""

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


def order(filters: Tensor, weights: Tensor) -> Tensor:  # (K, C, s, s), (K, 1, 1) -> (K,)
    """Return the experts by their contribution w_k ||c_k||, the largest first."""
    return (weights.flatten() * filters.flatten(1).norm(dim=1)).argsort(descending=True)


def draw(
    filters: Tensor,
    weights: Tensor,
    smoothings: Tensor,
    look: Look = PAPER,
    frequency: bool = False,
    common_range: bool = False,
) -> Figure:
    """Draw filters (K, C, s, s) with their weights and smoothings (K, 1, 1), and their frequency responses on demand.
    The colour range is symmetric, so zero is white. Every filter has its own range, or with `common_range` all have one
    and a colour bar. Colour filters are shown around mid-grey."""
    bank, w, s = (t.detach().cpu() for t in (filters, weights.flatten(), smoothings.flatten()))
    peaks = bank.abs().amax((1, 2, 3)).clamp(min=1e-30)
    limits = [float(peaks.max())] * len(peaks) if common_range else peaks.tolist()
    with style(look):
        grid = _Grid(look, len(bank), frequency, common_range and bank.shape[1] == 1)
        figure = Figure(figsize=(look.width, grid.height))
        for place, k in enumerate(order(bank, w).tolist()):
            axes = figure.add_axes(grid.rectangle(place, 0))
            bare(axes)
            end = limits[k]
            axes.imshow(pixels(bank[k], end), cmap=COLORS, vmin=-end, vmax=end, interpolation="nearest")
            for spine in axes.spines.values():
                spine.set(visible=True, linewidth=0.4 * look.line, color="0.6")
            if frequency:
                below = figure.add_axes(grid.rectangle(place, 1))
                bare(below)
                below.imshow(response(bank[k]).numpy(), cmap="viridis", vmin=0, interpolation="nearest")
                axes = below
            axes.set_xlabel(parameters(w[k], s[k]), labelpad=look.text / 8, linespacing=1.0)
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
    """Places of the filters in inches, and the rectangles of their axes."""

    def __init__(self, look: Look, count: int, frequency: bool, bar: bool) -> None:
        narrowest = text_width("w 0.0012", look)
        self.look, self.parts, self.bar = look, 2 if frequency else 1, bar
        most = int((look.width + look.gap) / (narrowest + look.gap))
        even = (c for c in range(max(1, most), int(0.7 * most), -1) if count % c == 0)
        rows = math.ceil(count / max(1, most))
        self.columns = next(even, max(math.ceil(count / rows), min(most, 4)))
        edge = look.line / 72
        self.side = (look.width - edge + look.gap) / self.columns - look.gap
        self.block = self.parts * (self.side + look.gap) + 2 * look.row
        self.below = (2.2 * look.row + look.gap) if bar else 0.0
        self.height = edge + math.ceil(count / self.columns) * (self.block + look.gap) - look.gap + self.below

    def rectangle(self, place: int, part: int) -> tuple[float, float, float, float]:
        row, column = divmod(place, self.columns)
        edge = self.look.line / 144
        left = edge + column * (self.side + self.look.gap)
        top = edge + row * (self.block + self.look.gap) + part * (self.side + self.look.gap)
        return self._relative(left, top, self.side, self.side)

    def bar_rectangle(self) -> tuple[float, float, float, float]:
        width = self.look.width / 2
        return self._relative(width / 2, self.height - self.below + self.look.gap, width, 0.6 * self.look.row)

    def _relative(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        total = self.height
        return left / self.look.width, 1 - (top + height) / total, width / self.look.width, height / total
