"""Inexact stochastic gradient descent (Salehi, Mukherjee, Roberts, Ehrhardt: arXiv 2412.12049, Algorithm 1).

    theta_{k+1} = theta_k - alpha_k z_k,    z_k the hypergradient of a random mini-batch to accuracy eps_k,

plain, or with z_k turned into a direction by momentum, Adam or AdaBelief (arXiv 2511.06774).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from app.lower.energy import Energy, Solver
from app.upper.bound import error_bound, estimated_error, inexactness
from app.upper.descent import Descent
from app.upper.hypergradient import Hypergradient, hypergradient
from app.upper.method import (
    Batch,
    Computations,
    State,
    Step,
    energy_at,
    first_accuracy,
    length,
    remember,
    report,
    require_finite,
    warm_start,
)
from app.upper.schedules import Schedule
from app.upper.trial import tight_loss

TIGHTEN, LOOSEN = 0.3, 1.5  # of an accuracy that adapts itself: within a step, and to the next


def unmet_condition(step_decay: float, accuracy_decay: float) -> str:
    """What the convergence theorem for alpha_k ~ (k + 1)^-q, eps_k ~ (k + 1)^-p asks for and does not get, or ''."""
    if not 0.5 < step_decay <= 1:
        return f"steps of order (k + 1)^-{step_decay:g} need not converge: the theory asks for an exponent in (1/2, 1]"
    if step_decay + 2 * accuracy_decay <= 1:
        return (
            f"accuracies of order (k + 1)^-{accuracy_decay:g} need not converge with steps of order "
            f"(k + 1)^-{step_decay:g}: the theory asks for q + 2 p > 1"
        )
    return ""


@dataclass(frozen=True)
class Isgd:
    solve: Solver
    descent: Descent  # alpha_k
    schedule: Schedule  # eps_k / eps_0
    accuracy: float  # eps_0; 0 to find it at the first step
    relative_accuracy: float = 0.0  # eta: error of z_k <= eta ||z_k||; 0 leaves it at eps_k
    proven: bool = False  # this error is omega; else it is estimated

    full_batch: ClassVar[bool] = False
    finite_sum: ClassVar[bool] = False
    needs_convexity: ClassVar[bool] = True

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost = energy_at(k, batch), Computations()
        accuracy = batch.coarseness * self.schedule(k) * (self.accuracy or first_accuracy(batch, energy, state))
        z, accuracy = self._hypergradient(batch, energy, state, accuracy, cost)
        require_finite(k, z.loss, *z.gradient)
        remember(batch, state, z)
        loss = tight_loss(batch, self.solve, z.lower.x, accuracy, cost)
        alpha = self.descent.step(k, tuple(batch.learned.parameters()), z.gradient, state, loss)
        return report(z, accuracy, alpha, cost.total)

    def _hypergradient(
        self, batch: Batch, energy: Energy, state: State, accuracy: float, cost: Computations
    ) -> tuple[Hypergradient, float]:
        """To accuracy eps_k, or until its error is the share `relative_accuracy` of its norm, as far as rounding lets
        the solvers go; the next step begins a little coarser."""
        x, q = warm_start(batch, energy, state)
        if self.relative_accuracy:
            accuracy = min(accuracy, batch.coarseness * float(state.values.get("eps", torch.inf)))
        before, asked = None, accuracy
        while True:
            z = hypergradient(batch.learned, energy, batch.loss, self.solve, x, q, accuracy)
            cost.add(z.computations)
            if self.relative_accuracy == 0 or not (z.lower.converged & z.linear.converged).all():
                return z, accuracy
            if self._error(batch, energy, before, z) <= self.relative_accuracy * length(z.gradient):
                # An estimate needs two solves: the coarser one is where the next step begins.
                loose = LOOSEN * (accuracy if self.proven else asked) / batch.coarseness
                state.values["eps"] = torch.tensor(loose, dtype=torch.float64)
                return z, accuracy
            # Below what was reached, so that every solve moves on.
            asked, reached = accuracy, min(accuracy, float(inexactness(z).max()))
            before, accuracy, x, q = z, TIGHTEN * reached, z.lower.x, z.linear.q

    def _error(self, batch: Batch, energy: Energy, before: Hypergradient | None, z: Hypergradient) -> float:
        if self.proven:
            return float(error_bound(batch.learned, energy, batch.loss.smoothness, z.lower, z.linear).mean())
        return estimated_error(before, z) if before else float("inf")
