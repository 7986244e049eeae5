"""Square regions of an image that are worth magnifying."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Region:
    """A square: rows row ... row + size - 1, columns column ... column + size - 1."""

    row: int
    column: int
    size: int

    def of(self, image: Tensor) -> Tensor:  # (C, H, W) -> (C, size, size)
        return image[:, self.row : self.row + self.size, self.column : self.column + self.size]


def most_different(clean: Tensor, others: list[Tensor], size: int, count: int = 1) -> list[Region]:
    """Find the `count` disjoint regions where the mean squared errors of the other images (C, H, W) differ most. The
    largest difference comes first. With fewer than two others, the regions have the most structure of the clean
    image."""
    size = min(size, *clean.shape[1:])
    if len(others) > 1:
        errors = torch.stack([_means((other.clamp(0, 1) - clean).square().mean(0), size) for other in others])
        score = errors.amax(0) - errors.amin(0)
    else:
        dims = [d for d in (1, 2) if clean.shape[d] > 1]
        gradient = torch.stack(torch.gradient(clean, dim=dims)) if dims else torch.zeros_like(clean)[None]
        score = _means(gradient.square().sum((0, 1)).sqrt(), size)
    regions = []
    while len(regions) < count and bool(score.isfinite().any()):
        row, column = divmod(int(score.argmax()), score.shape[1])
        regions.append(Region(row, column, size))
        score[max(0, row - size + 1) : row + size, max(0, column - size + 1) : column + size] = -torch.inf
    return regions


def _means(values: Tensor, size: int) -> Tensor:  # (H, W) -> (H - size + 1, W - size + 1)
    """Return the means over all windows, from sums over all corners: no cost grows with the window."""
    corners = torch.nn.functional.pad(values.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    strips = corners[size:] - corners[:-size]
    return (strips[:, size:] - strips[:, :-size]) / size**2
