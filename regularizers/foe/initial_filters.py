"""The filter bank that learning starts from: the discrete cosine atoms of a patch, without the constant one."""

import math

import torch
from torch import Tensor

from regularizers.functional import RegularizerError

# Orthonormal luminance-chrominance axes of RGB: grey, red-blue, green-magenta.
OPPONENT_AXES = ((1, 1, 1), (1, 0, -1), (1, -2, 1))


def dct_filters(channels: int, filters: int, size: int) -> Tensor:  # -> (K, C, s, s), unit norm, zero mean
    """Return the first K atoms of the orthonormal DCT-II of a C x s x s patch, lowest frequencies first.

    Past the C (s^2 - 1) atoms that are not constant, filter k is the normalized sum of two of them, so that all filters
    differ and gradient descent can tell them apart. Raises RegularizerError where there are not so many, and for a
    size that is even or less than 3.
    """
    if size % 2 == 0 or size < 3:
        raise RegularizerError(f"filter_size must be odd and at least 3, not {size}")
    atoms = _atoms(channels, size)
    count = len(atoms)
    if filters > count * (count // 2):
        raise RegularizerError(f"at most {count * (count // 2)} filters of {size} x {size} x {channels}, not {filters}")
    bank = []
    for k in range(filters):
        turn, i = divmod(k, count)
        bank.append(atoms[i] if turn == 0 else (atoms[i] + atoms[(i + turn) % count]) / math.sqrt(2))
    return torch.stack(bank)


def _atoms(channels: int, size: int) -> Tensor:
    grid = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi * grid[:, None] * (grid + 0.5) / size)
    waves = waves / waves.norm(dim=1, keepdim=True)
    axes = torch.tensor(OPPONENT_AXES, dtype=torch.float64) if channels == 3 else torch.eye(channels).double()
    axes = axes / axes.norm(dim=1, keepdim=True)
    frequencies = sorted(
        (i * i + j * j, a, i, j) for a in range(channels) for i in range(size) for j in range(size) if i or j
    )
    atoms = [torch.einsum("c,p,q->cpq", axes[a], waves[i], waves[j]) for _, a, i, j in frequencies]
    return torch.stack(atoms).to(torch.get_default_dtype())
