"""stocBiO (Ji, Yang, Liang: Bilevel Optimization, arXiv 2010.07962).

    x^{t+1} = x^t - tau grad h(x^t),  t < D,  from the last x of the image,
    q = tau sum_{j < Q} (I - tau H)^j b,    b = grad loss(x^D),  H = d2h/dx2(x^D),
    theta <- theta - alpha_k z,    z = mean_b - J_b^T q_b.

The paper draws the terms of the lower level, of b and of each factor I - tau H at random. Here every image has a lower
level of its own, so images are what is drawn: given the mini-batch, D steps and Q terms are deterministic.

tau = 2 / (mu + L), of all steps the one that contracts fastest by what is proven of h: by (L - mu) / (L + mu), in both
loops. (The paper takes it for x and at most 1 / L for the series, whose factors I - tau H are then >= 0; the error of
the series only needs their norm.) What Q terms leave out is ||q - H^-1 b|| <= (1 - tau mu)^Q ||b|| / mu.

x lags behind theta, the further the larger L has grown while training: SHARE of the step is taken that exact gradients
would be given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
from app.lower.solution import norm
from app.upper.descent import Descent
from app.upper.method import (
    Batch,
    Computations,
    State,
    Step,
    energy_at,
    first_accuracy,
    report_truncated,
    require_finite,
)
from app.upper.trial import tight_loss

SHARE = 0.3


@torch.no_grad()
def gradient_steps(
    energy: Energy, start: Tensor, tau: float, count: int
) -> tuple[Tensor, Tensor]:  # (B, C, H, W) -> (B, C, H, W), (B,)
    """x after `count` >= 1 steps x - tau grad h(x), and a bound on ||x - argmin h|| that costs no further gradient.

    A step is Lipschitz with max(|1 - tau mu|, |1 - tau L|), so the bound is this times that of the point before.
    """
    mu, largest = energy.bounds
    x, g = start, torch.zeros_like(start)
    for _ in range(count):
        g = energy.gradient(x)
        x = x - tau * g
    return x, max(abs(1 - tau * mu), abs(1 - tau * largest)) * norm(g) / mu


@torch.no_grad()
def neumann_series(
    hessian: Callable[[Tensor], Tensor], b: Tensor, tau: float, terms: int
) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
    """tau sum_{j < terms} (I - tau H)^j b = (I - (I - tau H)^terms) H^-1 b, with terms - 1 products."""
    term = q = tau * b
    for _ in range(terms - 1):
        term = term - tau * hessian(term)
        q = q + term
    return q


@dataclass(frozen=True)
class Stocbio:
    solve: Solver  # of the trials that find the first step size, and of nothing else
    descent: Descent
    lower_steps: int  # D
    series_terms: int  # Q

    full_batch: ClassVar[bool] = False
    finite_sum: ClassVar[bool] = False
    needs_convexity: ClassVar[bool] = True

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost = energy_at(k, batch), Computations()
        tau = 2 / sum(energy.bounds)
        start = state.recall("x", batch.images, energy.start)
        x, error_bound = gradient_steps(energy, start, tau, self.lower_steps)
        q = neumann_series(energy.hessian(x), batch.loss.gradient(x), tau, self.series_terms)
        z = tuple(-g / len(x) for g in batch.learned.mixed(x, q))
        loss, counts = batch.loss.value(x), (self.lower_steps, self.series_terms - 1)
        require_finite(k, loss, *z)
        state.remember("x", batch.images, x)
        cost.total += len(x) * sum(counts)
        trial = tight_loss(batch, self.solve, x, first_accuracy(batch, energy, state), cost)
        alpha = self.descent.step(k, tuple(batch.learned.parameters()), z, state, trial, share=SHARE)
        return report_truncated(x, loss, error_bound, alpha, counts, cost.total)
