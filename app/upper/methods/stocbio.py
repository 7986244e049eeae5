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
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from app.lower import lbfgs
from app.lower.energy import Energy, Solver
from app.lower.solution import norm
from app.upper.descent import Descent, DescentState, longest_descent
from app.upper.iteration import Iteration
from app.upper.method import Batch, Step, Stochastic
from app.upper.state import PerImage

SHARE = 0.3


@dataclass
class StocbioState:
    """The last x of each image, eps_0 of the trials and the state of the descent."""

    x: PerImage
    eps_0: float | None = None
    descent: DescentState = field(default_factory=DescentState)


@torch.no_grad()
def gradient_steps(
    energy: Energy, start: Tensor, tau: float, count: int
) -> tuple[Tensor, Tensor]:  # (B, C, H, W) -> (B, C, H, W), (B,)
    """Return x after `count` >= 1 steps x - tau grad h(x), and a bound on ||x - argmin h|| for no further gradient.

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
    """Return tau sum_{j < terms} (I - tau H)^j b = (I - (I - tau H)^terms) H^-1 b, with terms - 1 products."""
    term = q = tau * b
    for _ in range(terms - 1):
        term = term - tau * hessian(term)
        q = q + term
    return q


@dataclass(frozen=True, kw_only=True)
class Stocbio(Stochastic):
    """Gradient steps on the lower level and a Neumann series for the inverse Hessian."""

    solve: Solver = lbfgs.solve  # of the trials that find the first step size, and of nothing else
    descent: Descent = field(default_factory=Descent)
    lower_steps: int = 10  # D
    series_terms: int = 10  # Q

    def begin(self, finite_sum: bool) -> StocbioState:
        return StocbioState(PerImage(finite_sum))

    def step(self, k: int, batch: Batch, state: StocbioState) -> Step:
        here = Iteration.begin(k, batch)
        energy, tau = here.energy, 2 / sum(here.energy.bounds)
        start = state.x.recall(batch.images, energy.start)
        x, error_bound = gradient_steps(energy, start, tau, self.lower_steps)
        q = neumann_series(energy.hessian(x), batch.loss.gradient(x), tau, self.series_terms)
        loss, z = here.truncated_hypergradient(x, q)
        state.x.remember(batch.images, x)
        here.cost.computations += len(x) * (self.lower_steps + self.series_terms - 1)
        trial = here.tight_loss(self.solve, x, here.first_accuracy(state))
        share = SHARE if state.x.kept else 1.0  # where nothing is carried over, nothing lags behind
        alpha = self.descent.step(here, z, state.descent, partial(longest_descent, here.theta, z, trial), share=share)
        return here.report_truncated(x, loss, error_bound, alpha, (self.lower_steps, self.series_terms - 1))
