"""Schedules of step sizes alpha_k and accuracies eps_k, relative to the first.

They are pure functions s(k) of the step k = 0, 1, ..., steps - 1.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Return s(k) = 1."""
    return lambda k: 1.0


def polynomial(exponent: float) -> Schedule:
    """Return s(k) = (k + 1)^-exponent.

    The theory of arXiv 2412.12049 asks for q in (1/2, 1] of the step, and for p with q + 2 p > 1 of the accuracy.
    """
    return lambda k: (k + 1) ** -exponent


def logarithmic() -> Schedule:
    """Return s(k) = log 2 / log(k + 2), which is slower than every power."""
    return lambda k: math.log(2) / math.log(k + 2)


def exponential(ratio: float) -> Schedule:
    """Return s(k) = ratio^k."""
    return lambda k: ratio**k


def with_plateau(schedule: Schedule, steps: int) -> Schedule:
    """Return min(1, s(k) / s(steps - 1)) of a decreasing s: 1 for so many steps, then falling as s does.

    It is for an alpha_0 that was found as a share of the longest step that descends: s(0) could hardly be larger.
    """
    return lambda k: min(1.0, schedule(k) / schedule(steps - 1))


def one_cycle(steps: int, warm_up: float = 0.1, floor: float = 0.01) -> Schedule:
    """Return a line from floor to 1 over the share warm_up of the steps, then a half cosine down (arXiv 1708.07120)."""
    rise = max(1, round(warm_up * steps))

    def share(k: int) -> float:
        if k < rise:
            height = (k + 1) / rise
        else:
            height = 0.5 * (1 + math.cos(math.pi * min(1.0, (k - rise + 1) / max(1, steps - rise))))
        return floor + (1 - floor) * height

    return share
