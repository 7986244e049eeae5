"""From gradients to directions: theta <- theta - alpha_k d_k.

    plain       d = g
    momentum    m <- beta_1 m + g,  d = m                                   (Polyak, 1964)
    adam        d = m^ / (sqrt(v^) + 1e-8),  v the mean of g^2              (arXiv 1412.6980, Algorithm 1)
    adabelief   d = m^ / (sqrt(s^) + 1e-8),  s the mean of (g - m)^2        (arXiv 2010.07468, Algorithm 2)

m, v, s are exponential means (factors 0.9 and 0.999) corrected for their start at zero. They live in the state.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from app.upper.theta import Theta

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # the papers' defaults


@dataclass
class Means:
    """The means of all directions, of which a run uses those of one; empty before the first step."""

    count: int | None = field(default=None, metadata={"name": "direction.count"})
    momentum: Theta = ()
    adam_m: Theta = field(default=(), metadata={"name": "adam.m"})
    adam_v: Theta = field(default=(), metadata={"name": "adam.v"})
    adabelief_m: Theta = field(default=(), metadata={"name": "adabelief.m"})
    adabelief_s: Theta = field(default=(), metadata={"name": "adabelief.s"})


Direction = Callable[[Theta, Means], Theta]


def plain(gradient: Theta, means: Means) -> Theta:
    """Return the gradient."""
    return gradient


def momentum(gradient: Theta, means: Means) -> Theta:
    """Return the sum of all gradients so far, each 0.9 times as heavy as the next."""
    means.momentum = _updated(means.momentum, BETA_1, gradient)
    return means.momentum


def adam(gradient: Theta, means: Means) -> Theta:
    """Return the mean gradient in units of the root of its mean square."""
    means.adam_m = _updated(means.adam_m, BETA_1, tuple((1 - BETA_1) * g for g in gradient))
    means.adam_v = _updated(means.adam_v, BETA_2, tuple((1 - BETA_2) * g.square() for g in gradient))
    return _ratio(means.adam_m, means.adam_v, means)


def adabelief(gradient: Theta, means: Means) -> Theta:
    """Return the mean gradient in units of the root of its mean squared deviation."""
    m = means.adabelief_m = _updated(means.adabelief_m, BETA_1, tuple((1 - BETA_1) * g for g in gradient))
    squares = tuple((1 - BETA_2) * (g - n).square() for g, n in zip(gradient, m, strict=True))
    means.adabelief_s = _updated(means.adabelief_s, BETA_2, squares)
    return _ratio(m, means.adabelief_s, means)


def _updated(old: Theta, factor: float, new: Theta) -> Theta:
    if not old:
        return tuple(n.clone() for n in new)
    return tuple(factor * o + n for o, n in zip(old, new, strict=True))


def _ratio(m: Theta, v: Theta, means: Means) -> Theta:
    t = means.count = (means.count or 0) + 1

    def corrected(m: Tensor, v: Tensor) -> Tensor:
        return m / (1 - BETA_1**t) / ((v / (1 - BETA_2**t)).sqrt() + EPSILON)

    return tuple(corrected(*pair) for pair in zip(m, v, strict=True))
