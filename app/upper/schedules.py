"""Schedules of step sizes alpha_k and accuracies eps_k, pure functions of the step k = 0, 1, ..., steps - 1."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(start: float) -> Schedule:
    return lambda k: start


def polynomial(start: float, exponent: float) -> Schedule:
    """start (k + 1)^-exponent (arXiv 2412.12049: q in (1/2, 1] for the step, p with q + 2 p > 1 for the accuracy)."""
    return lambda k: start * (k + 1) ** -exponent


def one_cycle(peak: float, steps: int, warm_up: float = 0.1, floor: float = 0.01) -> Schedule:
    """Linear from floor to peak over the share warm_up of the steps, then a half cosine down (arXiv 1708.07120)."""
    rise = max(1, round(warm_up * steps))

    def step_size(k: int) -> float:
        if k < rise:
            share = (k + 1) / rise
        else:
            share = 0.5 * (1 + math.cos(math.pi * min(1.0, (k - rise + 1) / max(1, steps - rise))))
        return peak * (floor + (1 - floor) * share)

    return step_size
