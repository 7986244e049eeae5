"""Hyperparameter optimization with approximate gradient (Pedregosa, ICML 2016, arXiv 1602.02355, Algorithm 1).

    theta_{k+1} = theta_k - z_k / L_k,   both solves of z_k to eps_k, a summable sequence fixed in advance.

L adapts itself (section 5 of the paper, and the author's code). With f_k the inexact loss and t_k a bound on its
error,

    f_k - t_k >  f_{k-1} + t_{k-1}                                          theta <- theta_{k-1}, L <- 2 L
    f_k - t_k <= f_{k-1} + t_{k-1} - (L / 2) ||theta_k - theta_{k-1}||^2    L <- 0.95 L

The paper's t_k = C eps_k has an unknown constant; here t_k is certified, by trial.py. Going back takes a step of its
own: the record shows the loss that was rejected, and a shorter step from theta_{k-1} with z_{k-1} follows.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from app.lower.energy import Solver
from app.upper.bound import MARGIN, inexactness
from app.upper.descent import first_step
from app.upper.hypergradient import hypergradient
from app.upper.method import (
    Batch,
    Computations,
    State,
    Step,
    energy_at,
    first_accuracy,
    length,
    move,
    remember,
    report,
    require_finite,
    warm_start,
)  # fmt: skip
from app.upper.schedules import Schedule
from app.upper.trial import bounded, copies, put

RAISE, LOWER = 2.0, 0.95  # of L: the author's
EXPONENTIAL = 0.9  # eps_k = eps_0 0.9^k: the author's


def exponential() -> Schedule:
    return lambda k: EXPONENTIAL**k


@dataclass(frozen=True)
class Hoag:
    solve: Solver
    schedule: Schedule  # eps_k / eps_0
    step_size: float  # 1 / L_0; 0 to find it at the first step
    accuracy: float  # eps_0; 0 to find it at the first step

    full_batch: ClassVar[bool] = True
    finite_sum: ClassVar[bool] = True
    needs_convexity: ClassVar[bool] = True

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost, theta = energy_at(k, batch), Computations(), tuple(batch.learned.parameters())
        accuracy = self.schedule(k) * (self.accuracy or first_accuracy(batch, energy, state))
        # Where floating point stopped a solver once, it is not asked for more.
        accuracy = max(accuracy, float(state.values.get("floor", 0.0)))
        x, q = warm_start(batch, energy, state)
        z = hypergradient(batch.learned, energy, batch.loss, self.solve, x, q, accuracy)
        cost.add(z.computations)
        require_finite(k, z.loss, *z.gradient)
        if not bool((z.lower.converged & z.linear.converged).all()):
            state.values["floor"] = MARGIN * inexactness(z).max()
        now = bounded(batch.loss, z.lower)
        # Far from its accuracy, x says nothing about this theta: the step went too far.
        low = now.low if bool((z.lower.error_bound <= MARGIN * accuracy).all()) else torch.inf

        if "L" not in state.values:
            lipschitz = 1 / (self.step_size or first_step(batch, z, self.solve, cost))
        else:
            lipschitz = adapted(float(state.values["L"]), low, *state.values["before"].tolist())
        gradient = z.gradient
        if lipschitz > float(state.values.get("L", torch.inf)):
            put(theta, tuple(state.values[f"theta.{i}"] for i in range(len(theta))))
            gradient = tuple(state.values[f"z.{i}"] for i in range(len(theta)))
            high = float(state.values["before"][0])
        else:
            remember(batch, state, z)
            high = now.high
        kept = copies(theta)
        for i, (p, g) in enumerate(zip(kept, gradient, strict=True)):
            state.values[f"theta.{i}"], state.values[f"z.{i}"] = p, g
        state.values["L"] = torch.tensor(lipschitz, dtype=torch.float64)
        move(theta, gradient, 1 / lipschitz)
        state.values["before"] = torch.tensor([high, length(gradient) / lipschitz], dtype=torch.float64)
        return report(z, accuracy, 1 / lipschitz, cost.total)


def adapted(lipschitz: float, low: float, high_before: float, moved: float) -> float:
    """L after a step of length `moved`, from parameters of loss <= high_before to such of loss >= low."""
    if not low <= high_before:
        return RAISE * lipschitz
    if low <= high_before - lipschitz / 2 * moved**2:
        return LOWER * lipschitz
    return lipschitz
