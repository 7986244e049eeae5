"""Parameters that depend on the noise level sigma: piecewise linear in log sigma.

    p(sigma) = (1 - t) p_n + t p_{n+1},    log sigma = (1 - t) log sigma_n + t log sigma_{n+1},  0 <= t <= 1,

between nodes sigma_0 = LOWEST, ..., sigma_{N-1} = HIGHEST in geometric progression. What is learned are the values p_n
at the nodes, (N, ...) where p is (...). Of a weight, p is the logarithm: between two nodes it is a power of sigma.

There is no value beyond the end nodes. What would be extrapolated there has never met data, and keeping the last value
would reconstruct too smoothly below LOWEST and too roughly above HIGHEST without saying so: it is refused.
"""

import math

import torch
from torch import Tensor

LOWEST, REFERENCE, HIGHEST = 5 / 255, 25 / 255, 50 / 255


class NoiseLevelError(ValueError):
    """A noise level for which nothing was learned."""


def require_known(noise_level: float) -> None:
    """Raises NoiseLevelError outside [LOWEST, HIGHEST]."""
    if not LOWEST <= noise_level <= HIGHEST:
        raise NoiseLevelError(
            f"this regularizer knows noise levels from {255 * LOWEST:g}/255 to {255 * HIGHEST:g}/255, "
            f"not {255 * noise_level:g}/255"
        )


def spread(p: Tensor, count: int, exponent: float = 1.0) -> Tensor:  # (...) -> (count, ...)
    """Initial values at the nodes: p at REFERENCE, growing by `exponent` per unit of log sigma; p itself for count = 0.

    For the logarithm of a weight or smoothing, 1 makes it proportional to sigma. Of untrained fields of experts and of
    total variation, the best common weight was so at 15, 25 and 50 / 255 (within the factor 2 of a search on the
    photographs of `builtin:train`), and nearly so at 5 / 255.
    """
    if count == 0:
        return p
    if count < 2:
        raise ValueError(f"noise_nodes must be 0 or at least 2, not {count}")
    logarithms = torch.linspace(math.log(LOWEST / REFERENCE), math.log(HIGHEST / REFERENCE), count)
    return p + exponent * logarithms.to(p).view(-1, *[1] * p.ndim)


def interpolate(values: Tensor, noise_level: float) -> Tensor:  # (N, ...) -> (...)
    last = len(values) - 1
    place = last * math.log(noise_level / LOWEST) / math.log(HIGHEST / LOWEST)
    n = min(int(place), last - 1)
    return torch.lerp(values[n], values[n + 1], min(max(place - n, 0.0), 1.0))
