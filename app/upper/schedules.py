"""Schedules of step sizes alpha_k and accuracies eps_k, relative to the first: pure functions of the step
k = 0, 1, ..., steps - 1."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant() -> Schedule:
    return lambda k: 1.0


def polynomial(exponent: float) -> Schedule:
    """(k + 1)^-exponent (arXiv 2412.12049: q in (1/2, 1] for the step, p with q + 2 p > 1 for the accuracy)."""
    return lambda k: (k + 1) ** -exponent


def logarithmic() -> Schedule:
    """log 2 / log(k + 2): slower than every power."""
    return lambda k: math.log(2) / math.log(k + 2)


def held(schedule: Schedule, steps: int) -> Schedule:
    """min(1, s(k) / s(steps - 1)) of a decreasing s: as long as s allows it, the first value, which is also the
    largest. For an alpha_0 that was found as the longest step that descends: s(0) could be no larger."""
    return lambda k: min(1.0, schedule(k) / schedule(steps - 1))


def one_cycle(steps: int, warm_up: float = 0.1, floor: float = 0.01) -> Schedule:
    """Linear from floor to 1 over the share warm_up of the steps, then a half cosine down (arXiv 1708.07120)."""
    rise = max(1, round(warm_up * steps))

    def share(k: int) -> float:
        if k < rise:
            height = (k + 1) / rise
        else:
            height = 0.5 * (1 + math.cos(math.pi * min(1.0, (k - rise + 1) / max(1, steps - rise))))
        return floor + (1 - floor) * height

    return share
