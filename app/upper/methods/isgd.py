"""Inexact stochastic gradient descent (Salehi, Mukherjee, Roberts, Ehrhardt: arXiv 2412.12049, Algorithm 1).

    theta_{k+1} = theta_k - alpha_k z_k,    z_k the hypergradient of a random mini-batch to accuracy eps_k,

plain, or with z_k turned into a direction by momentum, Adam or AdaBelief (arXiv 2511.06774).
"""

from dataclasses import dataclass, field
from functools import partial

from app.lower import lbfgs
from app.lower.energy import Solver
from app.upper.bound import estimated_error
from app.upper.descent import Descent, DescentState, first_step
from app.upper.hypergradient import Hypergradient
from app.upper.iteration import Iteration
from app.upper.method import Batch, Step, Stochastic
from app.upper.schedules import Schedule, constant
from app.upper.state import WarmStart
from app.upper.theta import length

TIGHTEN, LOOSEN = 0.3, 1.5  # of an accuracy that adapts itself: within a step, and to the next


def unmet_condition(step_decay: float, accuracy_decay: float) -> str:
    """Return what the convergence theorem asks of alpha_k ~ (k + 1)^-q, eps_k ~ (k + 1)^-p and does not get, or ''."""
    if not 0.5 < step_decay <= 1:
        return f"steps of order (k + 1)^-{step_decay:g} need not converge: the theory asks for an exponent in (1/2, 1]"
    if step_decay + 2 * accuracy_decay <= 1:
        return (
            f"accuracies of order (k + 1)^-{accuracy_decay:g} need not converge with steps of order "
            f"(k + 1)^-{step_decay:g}: the theory asks for q + 2 p > 1"
        )
    return ""


@dataclass
class IsgdState:
    """The last (x, q) of each image, eps_0, an accuracy that adapts itself and the state of the descent."""

    warm: WarmStart
    eps_0: float | None = None
    eps: float | None = None  # with which the next step begins
    descent: DescentState = field(default_factory=DescentState)


@dataclass(frozen=True, kw_only=True)
class Isgd(Stochastic):
    """A certified hypergradient of a mini-batch, and a step against it or along a direction made of it."""

    solve: Solver = lbfgs.solve
    descent: Descent = field(default_factory=Descent)  # alpha_k
    schedule: Schedule = field(default_factory=constant)  # eps_k / eps_0
    accuracy: float = 0.0  # eps_0; 0 to find it at the first step
    relative_accuracy: float = 0.0  # eta: error of z_k <= eta ||z_k||; 0 leaves it at eps_k
    proven: bool = False  # this error is omega of bound.py; else it is estimated
    through_guide: bool = False  # z_k also through what a regularizer is conditioned on

    def begin(self, finite_sum: bool) -> IsgdState:
        return IsgdState(WarmStart.empty(finite_sum))

    def step(self, k: int, batch: Batch, state: IsgdState) -> Step:
        here = Iteration.begin(k, batch)
        z, accuracy = self._hypergradient(here, state, here.accuracy(self.schedule, self.accuracy, state))
        state.warm.remember(batch.images, z.lower.x, z.linear.q)
        longest = partial(first_step, batch, z, self.solve, here.cost, accuracy)
        alpha = self.descent.step(here, z.gradient, state.descent, longest)
        return here.report(z, accuracy, alpha)

    def _hypergradient(self, here: Iteration, state: IsgdState, accuracy: float) -> tuple[Hypergradient, float]:
        """Return z to accuracy eps_k, and that accuracy.

        Or tighten it until the error of z is the share `relative_accuracy` of its norm, as far as rounding lets the
        solvers go; the next step begins a little looser.
        """
        factor = here.batch.tolerance_factor
        x, q = state.warm.recall(here.batch.images, here.energy.start)
        if self.relative_accuracy and state.eps is not None:
            accuracy = min(accuracy, factor * state.eps)
        before, asked = None, accuracy
        while True:
            z = here.hypergradient(self.solve, x, q, accuracy)
            if self.relative_accuracy == 0 or not z.converged.all():
                return z, accuracy
            if self._error(here, before, z) <= self.relative_accuracy * length(z.gradient):
                # An estimate needs two solves: the looser one is where the next step begins.
                state.eps = LOOSEN * (accuracy if self.proven else asked) / factor
                return z, accuracy
            # Below what was reached, so that every solve moves on.
            asked, reached = accuracy, min(accuracy, float(z.inexactness.max()))
            before, accuracy, x, q = z, TIGHTEN * reached, z.lower.x, z.linear.q

    def _error(self, here: Iteration, before: Hypergradient | None, z: Hypergradient) -> float:
        if self.proven:
            return here.proven_error(z)
        return estimated_error(before, z) if before else float("inf")
