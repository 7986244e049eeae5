"""Hyperparameter optimization with approximate gradient (Pedregosa, ICML 2016, arXiv 1602.02355, Algorithm 1).

    theta_{k+1} = theta_k - z_k / L_k,   both solves of z_k to eps_k, a summable sequence fixed in advance.

L adapts itself (section 5 of the paper, and the author's code). With f_k the inexact loss and t_k a bound on its
error,

    f_k - t_k >  f_{k-1} + t_{k-1}                                          theta <- theta_{k-1}, L <- 2 L
    f_k - t_k <= f_{k-1} + t_{k-1} - (L / 2) ||theta_k - theta_{k-1}||^2    L <- 0.95 L

The paper's t_k = C eps_k has an unknown constant; here t_k is certified, by trial.py. Going back takes a step of its
own: the record shows the loss that was rejected, and a shorter step from theta_{k-1} with z_{k-1} follows.
"""

from dataclasses import dataclass, field

import torch

from app.lower import lbfgs
from app.lower.energy import Solver
from app.upper.bound import MARGIN
from app.upper.descent import first_step
from app.upper.iteration import Iteration
from app.upper.method import Batch, FullBatch, Step
from app.upper.schedules import Schedule, polynomial
from app.upper.state import WarmStart
from app.upper.theta import Theta, copies, length, move, put
from app.upper.trial import loss_bounds

RAISE, LOWER = 2.0, 0.95  # of L: the author's
EXPONENTIAL = 0.9  # eps_k = eps_0 0.9^k: the author's


@dataclass(frozen=True)
class Before:
    """What the next loss is compared with."""

    high: float  # certified bound of the loss before the last step
    moved: float  # length of the last step


@dataclass(frozen=True, kw_only=True)
class LastStep:
    """The last step: from theta, against the gradient, of length 1 / L."""

    theta: Theta
    gradient: Theta = field(metadata={"name": "z"})
    lipschitz: float = field(metadata={"name": "L"})
    before: Before


@dataclass
class HoagState:
    """The last (x, q) of each image, eps_0, the last step, and the accuracy that floating point does not reach."""

    warm: WarmStart
    eps_0: float | None = None
    last: LastStep | None = None
    floor: float | None = None


@dataclass(frozen=True, kw_only=True)
class Hoag(FullBatch):
    """Solves to accuracies that fall by a fixed sequence, and a step size that adapts itself to the losses."""

    solve: Solver = lbfgs.solve
    schedule: Schedule = field(default_factory=lambda: polynomial(2))  # eps_k / eps_0, summable
    step_size: float = 0.0  # 1 / L_0; 0 to find it at the first step
    accuracy: float = 0.0  # eps_0; 0 to find it at the first step

    def begin(self, finite_sum: bool) -> HoagState:
        return HoagState(WarmStart.empty(finite_sum))

    def step(self, k: int, batch: Batch, state: HoagState) -> Step:
        here = Iteration.begin(k, batch)
        # Where floating point stopped a solver once, it is not asked for more.
        accuracy = max(here.accuracy(self.schedule, self.accuracy, state), state.floor or 0.0)
        z = here.hypergradient(self.solve, *state.warm.recall(batch.images, here.energy.start), accuracy)
        now, last = loss_bounds(batch, z.lower), state.last
        # Far from its accuracy, x says nothing about this theta: the step went too far.
        low = now.low if bool((batch.share.gather(z.lower.error_bound) <= MARGIN * accuracy).all()) else torch.inf

        if last is None:
            step = self.step_size or first_step(batch, z, self.solve, here.cost, accuracy, z.gradient)
            if not step:  # no direction either: the next step solves to a smaller accuracy
                return here.report(z, accuracy, 0.0)
            lipschitz = 1 / step
        else:
            lipschitz = adapted(last.lipschitz, low, last.before.high, last.before.moved)
        if last is not None and lipschitz > last.lipschitz:
            put(here.theta, last.theta)
            gradient, high = last.gradient, last.before.high
        else:
            state.warm.remember(batch.images, z.lower.x, z.linear.q)
            gradient, high = z.gradient, now.high
            if not bool(z.converged.all()):  # at a theta that is kept: of a hopeless one it would spoil all steps
                state.floor = float(MARGIN * z.inexactness.max())
        before = Before(high, length(gradient) / lipschitz)
        state.last = LastStep(theta=copies(here.theta), gradient=gradient, lipschitz=lipschitz, before=before)
        move(here.theta, gradient, 1 / lipschitz)
        return here.report(z, accuracy, 1 / lipschitz)


def adapted(lipschitz: float, low: float, high_before: float, moved: float) -> float:
    """Return L after a step of length `moved`, from parameters of loss <= high_before to such of loss >= low."""
    if not low <= high_before:
        return RAISE * lipschitz
    if low <= high_before - lipschitz / 2 * moved**2:
        return LOWER * lipschitz
    return lipschitz
