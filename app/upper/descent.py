"""Descent steps theta <- theta - alpha_k d_k with alpha_k = alpha_0 s(k), and an alpha_0 that nobody has to tune."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite

from app.lower.energy import Solver
from app.upper.direction import BETA_1, Direction, Means, adabelief, adam, momentum
from app.upper.hypergradient import Hypergradient
from app.upper.iteration import Iteration
from app.upper.method import Batch, Cost
from app.upper.schedules import Schedule, constant
from app.upper.state import copy
from app.upper.theta import Theta, copies, move, put
from app.upper.trial import Subset, tight_loss

SCALELESS = (adam, adabelief)
# alpha_0 where the direction has no scale: a parameter is the logarithm of a weight or smoothing, or an entry of a
# filter of norm one. Nothing is probed: that costs as much as ten steps.
SCALELESS_STEP = 0.05
ENOUGH = 0.25  # of the decrease of a linear loss
# Of the longest step of the first mini-batch where a descent has a scale: later ones are stiffer along their gradients,
# and with the whole of it learned filters of colour images swing from step to step.
STEADY = 0.5
FIRST_MOVE = 1e-2  # root mean square of the first trial's change
LAST_MOVE = 1.0  # of the largest


@dataclass
class DescentState:
    """What a Descent carries: the first step size and the means of its direction."""

    alpha_0: float | None = None
    means: Means = field(default_factory=Means)


@dataclass(frozen=True)
class Descent:
    """A direction, a schedule and a first step size."""

    direction: Direction = adam
    schedule: Schedule = field(default_factory=constant)  # s(k)
    step_size: float = 0.0  # alpha_0; 0 to find it at the first step
    factor: float = 1.0  # of an alpha_0 that is found

    def step(
        self, here: Iteration, gradient: Theta, state: DescentState, longest: Callable[[Theta], float],
        damping: float = 1.0, share: float = 1.0,
    ) -> float:  # fmt: skip
        """Move theta in place and return alpha_k. longest(d): longest_descent of this batch along d.

        For gradients that lag behind theta: an alpha_0 that is found is multiplied once by `share` and, where the
        direction has a scale, at every step by `damping`.
        """
        if state.alpha_0 is None:
            found = self.step_size or self.factor * self._automatic(gradient, state, longest, share)
            state.alpha_0 = found or None  # without a direction, nothing was found
        if self.direction in SCALELESS:
            damping = 1.0
        alpha = (self.step_size or damping * (state.alpha_0 or 0.0)) * self.schedule(here.k)
        move(here.theta, self.direction(gradient, state.means), alpha)
        return alpha

    def _automatic(
        self, gradient: Theta, state: DescentState, longest: Callable[[Theta], float], share: float
    ) -> float:
        if self.direction in SCALELESS:
            return share * SCALELESS_STEP
        sum_of_factors = 1 / (1 - BETA_1) if self.direction is momentum else 1.0
        return share * STEADY * longest(self.direction(gradient, copy(state.means))) / sum_of_factors


def step_of_change(direction: Theta, change: float) -> float:
    """Return alpha such that alpha d changes theta by `change` in the root mean square, or 0 for d = 0."""
    size, count = float(sum(d.square().sum() for d in direction)), sum(d.numel() for d in direction)
    return change * (count / size) ** 0.5 if size else 0.0


def longest_descent(theta: Theta, gradient: Theta, loss: Callable[[], float], direction: Theta) -> float:
    """Return the largest alpha, up to a factor of two, with f(theta - alpha d) <= f(theta) - alpha <g, d> / 4.

    loss(): f at the present theta, which is left as it was. For a quadratic of curvature L along d = g these are the
    alpha <= 3 / (2 L); for d = 0, alpha = 0.
    """
    if not (unit := step_of_change(direction, 1.0)):
        return 0.0
    slope = float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))
    kept = copies(theta)
    start = loss()

    def enough(alpha: float) -> bool:
        move(theta, direction, alpha)
        decreased = loss() <= start - ENOUGH * alpha * slope
        put(theta, kept)
        return decreased

    alpha = FIRST_MOVE * unit
    if enough(alpha):
        while 2 * alpha <= LAST_MOVE * unit and enough(2 * alpha):
            alpha *= 2
        return alpha
    for _ in range(20):
        alpha /= 2
        if enough(alpha):
            break
    return alpha


def first_step(
    batch: Batch, z: Hypergradient, solve: Solver, cost: Cost, asked: float, direction: Theta
) -> float:  # fmt: skip
    """Return longest_descent along d by the losses of some images of the batch alone.

    asked: accuracy of the trials where nothing is certified. What z was solved with, the cost and d are as many
    parameters.
    """
    subset = Subset.of(batch, z)
    reached = float(batch.share.gather(z.lower.error_bound).max())
    accuracy = reached if isfinite(reached) else asked
    loss = tight_loss(subset.batch, solve, subset.at_z.lower.x, accuracy, cost)
    return longest_descent(tuple(batch.learned.parameters()), subset.gradient, loss, direction)
