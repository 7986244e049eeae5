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

from app.lower.energy import Solver
from app.lower.solution import LowerSolution, NonFiniteError, norm
from app.upper.hypergradient import Hypergradient, Loss
from app.upper.method import Batch, Computations, Theta

TRIAL_ACCURACY = 0.01  # losses of close parameters are to be compared
PROBED = 8  # images of a part


@dataclass(frozen=True)
class Evaluation:
    """The mean loss of a batch: low <= exact <= high, value at the inexact x."""

    lower: LowerSolution
    low: float
    value: float
    high: float


def bounded(loss: Loss, lower: LowerSolution) -> Evaluation:
    x, e = lower.x.double(), lower.error_bound.double()
    value, slope = loss.value(x), norm(loss.gradient(x))
    change = slope * e
    low, high = value - change, value + change + loss.smoothness * e.square() / 2
    return Evaluation(lower, float(low.mean()), float(value.mean()), float(high.mean()))


def evaluate(batch: Batch, solve: Solver, start: Tensor, accuracy: float, cost: Computations) -> Evaluation:
    """At the present theta. Where an image misses an accuracy that could be certified, x may be the start, whose loss
    says nothing about this theta: value is then the certified bound. Of parameters beyond the range of numbers all
    losses are infinite."""
    energy = batch.energy()
    try:
        certifiable = energy.bounds[0] > 0
    except NonFiniteError:
        nothing = torch.full_like(start[:, 0, 0, 0], torch.inf)
        never = torch.zeros_like(nothing)
        lower = LowerSolution(x=start, error_bound=nothing, converged=nothing < 0, iterations=never)
        return Evaluation(lower, torch.inf, torch.inf, torch.inf)
    lower = solve(energy, start, accuracy)
    cost.add(lower.iterations)
    found = bounded(batch.loss, lower)
    return replace(found, value=found.high) if certifiable and not bool(lower.converged.all()) else found


def tight_loss(batch: Batch, solve: Solver, start: Tensor, accuracy: float, cost: Computations) -> Callable[[], float]:
    """theta -> the mean loss of the batch, solved to TRIAL_ACCURACY times the accuracy of the hypergradient; what it
    costs is counted."""
    return lambda: evaluate(batch, solve, start, TRIAL_ACCURACY * accuracy, cost).value


@dataclass(frozen=True)
class Part:
    """Some images S of a batch at the solution of its hypergradient z, with their gradient z_S = mean_S - J_b^T q_b. A
    trial on all of a large batch costs as much as a step."""

    batch: Batch
    now: Evaluation
    gradient: Theta

    @staticmethod
    @torch.no_grad()
    def of(batch: Batch, z: Hypergradient) -> "Part":
        count, lower, q = len(batch.images), z.lower, z.linear.q
        places = torch.arange(0, count, max(1, count // PROBED), device=q.device)[:PROBED]
        chosen = torch.zeros_like(q).index_copy(0, places, q[places])
        own = tuple(-g / len(places) for g in batch.learned.mixed(lower.x, chosen))
        few = replace(batch, energy=lambda: batch.energy().take(places), loss=batch.loss.take(places))
        return Part(few, bounded(few.loss, lower.take(places)), own)

    def rises(self, solve: Solver, accuracy: float, cost: Computations, slack: float = 0.0) -> bool:
        """Whether the mean loss of S at the present theta is certified to be more than `slack` above that at z."""
        trial = evaluate(self.batch, solve, self.now.lower.x, accuracy, cost)
        return not trial.low <= self.now.high + slack


def copies(theta: Theta) -> Theta:
    return tuple(p.detach().clone() for p in theta)


@torch.no_grad()
def put(theta: Theta, values: Theta) -> None:
    for p, v in zip(theta, values, strict=True):
        p.copy_(v)


def inner(a: Theta, b: Theta) -> float:
    return float(sum((p.detach().double() * q.double()).sum() for p, q in zip(a, b, strict=True)))
