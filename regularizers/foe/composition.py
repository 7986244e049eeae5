"""Filters that are compositions of small ones: layers C -> n_1 -> ... -> K of s x s filters, with nothing between them.

On an unbounded (or periodic) image, L layers one after the other are one bank of size 1 + L (s - 1), whose filters are
the full convolutions of theirs; under every boundary rule it is this bank that is meant. Fewer numbers for a large
support (arXiv 2211.12461).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regularizers.foe.filter_bank import spectral_bound
from regularizers.foe.initial_filters import dct_filters


class ComposedFilters(nn.Module):
    """The layers of a composed bank: channels C, hidden (n_1, ...), filters K, and size s in pixels of each layer."""

    def __init__(self, channels: int, hidden: tuple[int, ...], filters: int, size: int) -> None:
        super().__init__()
        widths = (channels, *hidden, filters)
        layers = [_near_identity(n, m, size) for n, m in pairwise(widths[:-1])]
        self.layers = nn.ParameterList([*layers, _distinct(widths[-2], filters, size)])

    def forward(self) -> Tensor:  # -> (K, C, S, S)
        """Return the bank, S = 1 + L (s - 1)."""
        return composed(list(self.layers))

    @torch.no_grad()
    def derivative_norm(self) -> Tensor:  # -> []
        """Bound the norm of d filters / d layers, with Frobenius norms on both sides: each layer is filtered by the
        layers before and after it, which are fixed."""
        layers, total = list(self.layers), torch.zeros(())
        for i in range(len(layers)):
            around = [part for part in (layers[:i], layers[i + 1 :]) if part]
            squared = [spectral_bound(composed(p), torch.ones_like(p[-1][:, 0, 0, 0]), "valid") for p in around]
            total = total + torch.stack(squared).prod()
        return total.sqrt()


def composed(layers: list[Tensor]) -> Tensor:
    """Return the bank (K, C, S, S) of layers (n_1, C, s, s), (n_2, n_1, s, s), ..."""
    bank = layers[0]
    for layer in layers[1:]:
        bank = F.conv_transpose2d(layer, bank)
    return bank


def _near_identity(before: int, after: int, size: int) -> Tensor:  # -> (after, before, s, s)
    """Return a layer that makes each channel a copy of one before it, plus a little of a cosine atom of it."""
    layer = torch.zeros(after, before, size, size)
    atoms = dct_filters(1, after, size)[:, 0]
    for k in range(after):
        layer[k, k % before] = 0.5 * atoms[k]
        layer[k, k % before, size // 2, size // 2] += 1
    return layer


def _distinct(before: int, after: int, size: int) -> Tensor:  # -> (after, before, s, s)
    """Return orthonormal combinations of the cosine atoms of all channels. One atom each would make duplicates, since
    filters commute."""
    atoms = dct_filters(1, size**2 - 1, size)[:, 0]
    mixing = nn.init.orthogonal_(torch.empty(after, before * len(atoms)), generator=torch.Generator().manual_seed(0))
    return torch.einsum("kna,apq->knpq", mixing.unflatten(1, (before, len(atoms))), atoms)
