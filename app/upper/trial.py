"""Losses of trial parameters, with bounds that hold for the exact lower level.

For a convex loss whose gradient is L_g-Lipschitz and ||x - x*|| <= e,

    loss(x) - ||grad loss(x)|| e  <=  loss(x*)  <=  loss(x) + ||grad loss(x)|| e + L_g e^2 / 2,

e the certified error of each image, not the accuracy that was asked for (arXiv 2308.10098, section 3). Evaluated in
float64: to differences of losses, the rounding of a float32 sum can be larger than e.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
from app.lower.solution import LowerSolution, NonFiniteError, norm
from app.upper.hypergradient import Hypergradient
from app.upper.method import Batch, Cost
from app.upper.theta import Theta

TRIAL_ACCURACY = 0.01  # losses of close parameters are to be compared
REACHABLE = 8  # units of eps ||x|| / mu: an accuracy that rounding lets a solver certify, with some to spare
SCREENED = 8  # images of a subset


@dataclass(frozen=True)
class TrialLoss:
    """The mean loss of a batch: low <= exact <= high, value at the inexact x."""

    lower: LowerSolution
    low: float
    value: float
    high: float


def loss_bounds(batch: Batch, lower: LowerSolution) -> TrialLoss:
    """Return the mean loss of certified solutions, with its bounds."""
    loss, x, e = batch.loss, lower.x.double(), lower.error_bound.double()
    value, slope = loss.value(x), norm(loss.gradient(x))
    change = slope * e
    low, high = value - change, value + change + loss.smoothness * e.square() / 2
    return TrialLoss(lower, *(float(batch.share.gather(bound).mean()) for bound in (low, value, high)))


def trial_loss(
    batch: Batch, solve: Solver, start: Tensor, accuracy: float, cost: Cost, rounding: float = 0.0
) -> TrialLoss:  # start (B, C, H, W)
    """Solve the lower level at the present theta and return its loss.

    rounding: of a gradient; an accuracy that it could keep from being certified is not asked for.

    Where an image misses an accuracy that could be certified, x may be the start, whose loss says nothing about this
    theta: value is then the certified bound. Of parameters beyond the range of numbers all losses are infinite.
    """
    try:
        energy = batch.energy()
        certifiable = (mu := energy.bounds[0]) > 0
    except NonFiniteError:
        return TrialLoss(_nothing(start), torch.inf, torch.inf, torch.inf)
    accuracy = max(accuracy, rounding / mu) if certifiable else accuracy
    lower = solve(energy, start, accuracy) if len(start) else _nothing(start)
    cost.add(lower.iterations)
    found, converged = loss_bounds(batch, lower), bool(batch.share.gather(lower.converged).all())
    return replace(found, value=found.high) if certifiable and not converged else found


def _nothing(start: Tensor) -> LowerSolution:  # (B, C, H, W)
    """What is known without a solve."""
    unknown = torch.full_like(start[:, 0, 0, 0], torch.inf)
    never = torch.zeros_like(unknown, dtype=torch.long)
    return LowerSolution(x=start, error_bound=unknown, converged=unknown < 0, iterations=never)


def tight_loss(
    batch: Batch, solve: Solver, start: Tensor, accuracy: float, cost: Cost
) -> Callable[[], float]:  # start (B, C, H, W)
    """Return a function that gives the mean loss of the batch at the theta of its call, and adds what that costs.

    It is solved to TRIAL_ACCURACY times the accuracy of the hypergradient, as far as rounding lets that be certified:
    a solver that cannot arrive costs many times what the others do.
    """

    def loss() -> float:
        rounding = REACHABLE * torch.finfo(start.dtype).eps * float(batch.share.gather(norm(start)).max())
        return trial_loss(batch, solve, start, TRIAL_ACCURACY * accuracy, cost, rounding).value

    return loss


@dataclass(frozen=True)
class Subset:
    """A few images S of a batch at the solution of its hypergradient z, to screen trials with.

    A trial on all images of a large batch costs as much as a step.
    """

    batch: Batch
    at_z: TrialLoss
    gradient: Theta  # z_S = mean_S - J_b^T q_b

    @staticmethod
    @torch.no_grad()
    def of(batch: Batch, z: Hypergradient) -> "Subset":
        """Take about SCREENED images of the whole mini-batch, evenly spaced; a process may have none of them."""
        count, lower, q = len(z.inexactness), z.lower, z.linear.q
        chosen = list(range(0, count, max(1, count // SCREENED)))[:SCREENED]
        share, own = batch.share.take(chosen), batch.share.among_own(chosen)
        places = torch.tensor(own, dtype=torch.long, device=q.device)
        alone = torch.zeros_like(q).index_copy(0, places, q[places])
        gradient = share.mean(tuple(-g / max(1, len(own)) for g in batch.learned.mixed(lower.x, alone)))

        def energy() -> Energy:
            whole = batch.energy()
            return whole.take(places) if own else whole

        few = replace(batch, energy=energy, loss=batch.loss.take(places), share=share)
        return Subset(few, loss_bounds(few, lower.take(places)), gradient)

    def loss_rises(self, solve: Solver, accuracy: float, cost: Cost, slack: float = 0.0) -> bool:
        """Return whether the mean loss of S at the present theta is certified to be more than `slack` above that at
        z."""
        trial = trial_loss(self.batch, solve, self.at_z.lower.x, accuracy, cost)
        return not trial.low <= self.at_z.high + slack
