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
from app.upper.hypergradient import Loss
from app.upper.method import Batch, Computations, Theta

TRIAL_ACCURACY = 0.01  # losses of close parameters are to be compared


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
        lower = LowerSolution(start, nothing, nothing < 0, torch.zeros_like(nothing))
        return Evaluation(lower, torch.inf, torch.inf, torch.inf)
    lower = solve(energy, start, accuracy)
    cost.add(lower.iterations)
    found = bounded(batch.loss, lower)
    return replace(found, value=found.high) if certifiable and not bool(lower.converged.all()) else found


def tight_loss(batch: Batch, solve: Solver, start: Tensor, accuracy: float, cost: Computations) -> Callable[[], float]:
    """theta -> the mean loss of the batch, solved to TRIAL_ACCURACY times the accuracy of the hypergradient; what it
    costs is counted."""
    return lambda: evaluate(batch, solve, start, TRIAL_ACCURACY * accuracy, cost).value


def copies(theta: Theta) -> Theta:
    return tuple(p.detach().clone() for p in theta)


@torch.no_grad()
def put(theta: Theta, values: Theta) -> None:
    for p, v in zip(theta, values, strict=True):
        p.copy_(v)


def inner(a: Theta, b: Theta) -> float:
    return float(sum((p.detach().double() * q.double()).sum() for p, q in zip(a, b, strict=True)))
