"""AmIGO (Arbel and Mairal: Amortized Implicit Differentiation, arXiv 2111.14580, Algorithm 1).

    x <- x - tau grad h(x),   T times from the last x of the image,
    q <- q - tau (H q - b),   N times from the last q of the image,    b = grad loss(x),  H = d2h/dx2(x),
    theta <- theta - alpha_k z,    z = mean_b - J_b^T q_b,

tau = 2 / (mu + L) for both, since grad h and H have the same bounds. The second line descends 1/2 <q, H q> - <b, q>.
While theta moves slowly, a few steps from the last (x, q) track the solutions: the cost of solving is amortized over
the visits of an image. Where noise is drawn anew at every visit there is no last (x, q): N steps from q = 0 are then N
terms of the series of stocBiO.

How slowly theta must move: a visit leaves at most the share r = gamma^min(T, N) of what x and q lag behind, gamma =
(L - mu) / (L + mu). For a quadratic f of curvature c, two such lags in a row, theta' = -alpha q, q' = (1 - r) (x - q),
x' = (1 - r) (c theta - x), are stable only for alpha c < 2 (1 - r) (Routh). An alpha_0 that was found on exact
solutions knows nothing of lags: it is multiplied by 1 - r, of the present theta. Steps without a scale (Adam) know of
no curvature either: SHARE of them is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
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
from app.upper.methods.stocbio import gradient_steps
from app.upper.trial import tight_loss

SHARE = 0.12  # of the step that exact gradients would be given, where x and q lag; 0.4 diverges as L grows


@torch.no_grad()
def adjoint_steps(
    hessian: Callable[[Tensor], Tensor], b: Tensor, start: Tensor, tau: float, count: int
) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
    """q after `count` gradient steps on 1/2 <q, H q> - <b, q>: q - H^-1 b = (I - tau H)^count (start - H^-1 b)."""
    q = start
    for _ in range(count):
        q = q - tau * (hessian(q) - b)
    return q


@dataclass(frozen=True)
class Amigo:
    solve: Solver  # of the trials that find the first step size, and of nothing else
    descent: Descent
    lower_steps: int  # T
    adjoint_steps: int  # N

    full_batch: ClassVar[bool] = False
    finite_sum: ClassVar[bool] = False
    needs_convexity: ClassVar[bool] = True

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost = energy_at(k, batch), Computations()
        tau = 2 / sum(energy.bounds)
        start = state.recall("x", batch.images, energy.start)
        x, error_bound = gradient_steps(energy, start, tau, self.lower_steps)
        q = state.recall("q", batch.images, torch.zeros_like(x))
        q = adjoint_steps(energy.hessian(x), batch.loss.gradient(x), q, tau, self.adjoint_steps)
        z = tuple(-g / len(x) for g in batch.learned.mixed(x, q))
        loss, counts = batch.loss.value(x), (self.lower_steps, self.adjoint_steps)
        require_finite(k, loss, *z)
        state.remember("x", batch.images, x)
        state.remember("q", batch.images, q)
        cost.total += len(x) * sum(counts)
        trial = tight_loss(batch, self.solve, x, first_accuracy(batch, energy, state), cost)
        theta, damping = tuple(batch.learned.parameters()), self._damping(energy, state)
        alpha = self.descent.step(k, theta, z, state, trial, damping, SHARE if state.finite_sum else 1.0)
        return report_truncated(x, loss, error_bound, alpha, counts, cost.total)

    def _damping(self, energy: Energy, state: State) -> float:
        """1 - r; 1 where nothing is carried over that could lag behind."""
        mu, largest = energy.bounds
        gamma = (largest - mu) / (largest + mu)
        return 1 - gamma ** min(self.lower_steps, self.adjoint_steps) if state.finite_sum else 1.0
