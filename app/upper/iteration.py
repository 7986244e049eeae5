"""One iteration of a method: how all of them begin, solve and report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
from app.lower.solution import NonFiniteError
from app.upper.bound import error_bound
from app.upper.hypergradient import Hypergradient, hypergradient, warn_of_zero
from app.upper.method import Batch, Cost, Step
from app.upper.schedules import Schedule
from app.upper.theta import Theta
from app.upper.trial import tight_loss

ACCURACY_SHARE = 0.02  # of the distance between the first measurements and the clean images


class FindsAccuracy(Protocol):
    """The state of a method that finds eps_0 at its first step."""

    eps_0: float | None


@dataclass(frozen=True)
class Iteration:
    """Iteration k on a batch: the energy at the theta it begins with, and what it has cost so far."""

    k: int
    batch: Batch
    energy: Energy
    cost: Cost

    @staticmethod
    def begin(k: int, batch: Batch) -> "Iteration":
        """Build the energy at the present theta. Raises NonFiniteError where theta has left the range of numbers."""
        energy = batch.energy()
        try:
            _ = energy.bounds
        except NonFiniteError as error:
            raise NonFiniteError(f"{error} at step {k}") from None
        return Iteration(k, batch, energy, Cost())

    @property
    def theta(self) -> Theta:
        return tuple(self.batch.learned.parameters())

    def accuracy(self, schedule: Schedule, eps_0: float, state: FindsAccuracy) -> float:
        """Return eps_k = eps_0 s(k), in units of the batch; an eps_0 of 0 is found at the first step."""
        return self.batch.tolerance_factor * schedule(self.k) * (eps_0 or self.first_accuracy(state))

    def first_accuracy(self, state: FindsAccuracy) -> float:
        """Return eps_0, found at the first step, for a batch with tolerance factor 1.

        It is a share of the distance between the first measurements and the clean images: the error of x is then this
        share, or some of it, of the gradient of a squared loss.
        """
        if state.eps_0 is None:
            loss = self.batch.loss
            slope = self.batch.share.gather(loss.gradient(self.energy.backprojection).flatten(1).norm(dim=1)).mean()
            state.eps_0 = float(ACCURACY_SHARE * slope / (loss.smoothness * self.batch.tolerance_factor))
        return state.eps_0

    def hypergradient(self, solve: Solver, x: Tensor, q: Tensor | None, accuracy: float) -> Hypergradient:
        """Solve for the hypergradient from x and q (B, C, H, W). Raises NonFiniteError."""
        batch, share = self.batch, self.batch.share
        z = hypergradient(
            batch.learned, self.energy, batch.loss, solve=solve, start=x, adjoint_start=q, accuracy=accuracy
        )
        self.cost.add(z.computations)
        z = replace(
            z, gradient=share.mean(z.gradient), inexactness=share.gather(z.inexactness),
            converged=share.gather(z.converged),
        )  # fmt: skip
        self.require_finite(z.loss, *z.gradient)
        return z

    def proven_error(self, z: Hypergradient) -> float:
        """Return a proven bound on the error of z, of the mean over the batch. Raises what bound.py raises."""
        batch = self.batch
        bound = error_bound(batch.learned, self.energy, batch.loss.smoothness, z.lower, z.linear)
        return float(batch.share.gather(bound).mean())

    def truncated_hypergradient(self, x: Tensor, q: Tensor) -> tuple[Tensor, Theta]:  # (B, C, H, W), (B, C, H, W)
        """Return the losses (B,) at x and mean_b - J_b^T q_b, for any x and q. Raises NonFiniteError."""
        z = self.batch.share.mean(tuple(-g / len(q) for g in self.batch.learned.mixed(x, q)))
        loss = self.batch.loss.value(x)
        self.require_finite(loss, *z)
        return loss, z

    def tight_loss(self, solve: Solver, start: Tensor, accuracy: float) -> Callable[[], float]:
        """Return theta -> the mean loss, as in trial.py, at the cost of this iteration."""
        return tight_loss(self.batch, solve, start, accuracy, self.cost)

    def require_finite(self, loss: Tensor, *gradient: Tensor) -> None:  # (B,)
        """Raise NonFiniteError where the loss of an image of the batch, or the gradient, is not finite."""
        if not all(bool(t.isfinite().all()) for t in (self.batch.share.gather(loss), *gradient)):
            raise NonFiniteError(f"the loss or its gradient is not finite at step {self.k}")

    def report(self, z: Hypergradient, accuracy: float, step_size: float) -> Step:
        """Return the step of a method built on certified hypergradients. Warns of a hypergradient that is zero."""
        if self.batch.share.processes.first:
            warn_of_zero(z)
        return Step(
            x=z.lower.x, loss=z.loss, accuracy=accuracy, step_size=step_size, error_bound=z.lower.error_bound,
            certified=z.lower.converged & z.linear.converged, lower_iterations=z.lower.iterations,
            linear_iterations=z.linear.iterations, computations=self.cost.computations,
        )  # fmt: skip

    def report_truncated(
        self, x: Tensor, loss: Tensor, error_bound: Tensor, step_size: float, counts: tuple[int, int]
    ) -> Step:  # x (B, C, H, W); loss, error_bound (B,)
        """Return the step of a method whose solves end after so many gradients and products, whatever they reached."""
        gradients, products = (torch.full_like(loss, n, dtype=torch.long) for n in counts)
        return Step(
            x=x, loss=loss, accuracy=float("nan"), step_size=step_size, error_bound=error_bound,
            certified=torch.zeros_like(loss, dtype=torch.bool), lower_iterations=gradients,
            linear_iterations=products, computations=self.cost.computations,
        )  # fmt: skip
