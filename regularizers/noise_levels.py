"""Parameters that depend on the noise level sigma: piecewise linear in log sigma.

    p(sigma) = (1 - t) p_n + t p_{n+1},    log sigma = (1 - t) log sigma_n + t log sigma_{n+1},  0 <= t <= 1,

between nodes sigma_0 = LOWEST, ..., sigma_{N-1} = HIGHEST in geometric progression. What is learned are the values p_n
at the nodes, (N, ...) where p is (...). Of a weight, p is the logarithm: between two nodes it is a power of sigma.

There is no value beyond the end nodes: other noise levels are refused. Extrapolated values would never have met data,
and those of the end nodes would reconstruct too smoothly below LOWEST and too roughly above HIGHEST without a word.
"""

import math

import torch
from torch import Tensor

from regularizers.functional import RegularizerError

LOWEST, REFERENCE, HIGHEST = 5 / 255, 25 / 255, 50 / 255
ROUNDING = 1e-6  # a deepinv physics keeps its noise level in float32


class NoiseLevelError(RegularizerError):
    """Says that nothing was learned for a noise level."""


def require_known(noise_level: float) -> None:
    """Check that a noise level (of pixels in [0, 1]) is known. Raises NoiseLevelError outside [LOWEST, HIGHEST]."""
    if not LOWEST * (1 - ROUNDING) <= noise_level <= HIGHEST * (1 + ROUNDING):
        raise NoiseLevelError(
            f"this regularizer knows noise levels from {255 * LOWEST:g}/255 to {255 * HIGHEST:g}/255, "
            f"not {255 * noise_level:g}/255"
        )


def initial_at_nodes(p: Tensor, count: int, exponent: float = 1.0) -> Tensor:  # (...) -> (count, ...)
    """Return initial values at the nodes: p at REFERENCE, plus `exponent` per unit of log sigma; for count = 0 only p.

    For the logarithm of a weight or smoothing, the exponent 1 makes it proportional to sigma. In a search by factors of
    2 on the photographs of `builtin:train`, the best common weight of untrained fields of experts and of total
    variation was proportional to sigma at 15, 25 and 50 / 255, and nearly so at 5 / 255.

    Raises RegularizerError for one node, between which and others nothing could be interpolated.
    """
    if count == 0:
        return p
    if count < 2:
        raise RegularizerError(f"noise_nodes must be 0 or at least 2, not {count}")
    logarithms = torch.linspace(math.log(LOWEST / REFERENCE), math.log(HIGHEST / REFERENCE), count)
    return p + exponent * logarithms.to(p).view(-1, *[1] * p.ndim)


def interpolate(values: Tensor, noise_level: float | Tensor) -> Tensor:  # (N, ...), [] -> (...)
    """Return p at this noise level from its values at the nodes, differentiable in both."""
    last, level = len(values) - 1, torch.as_tensor(noise_level, dtype=torch.float64)
    place = last * (level / LOWEST).log() / math.log(HIGHEST / LOWEST)
    n = min(int(place), last - 1)
    return torch.lerp(values[n], values[n + 1], (place - n).clamp(0, 1).to(values))
