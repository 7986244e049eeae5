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
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from app.lower import lbfgs
from app.lower.energy import Energy, Solver
from app.upper.descent import Descent, DescentState, longest_descent
from app.upper.iteration import Iteration
from app.upper.method import Batch, Step, Stochastic
from app.upper.methods.stocbio import gradient_steps
from app.upper.state import PerImage

SHARE = 0.12  # of the step that exact gradients would be given, where x and q lag; 0.4 diverges as L grows


@dataclass
class AmigoState:
    """The last x and q of each image, eps_0 of the trials and the state of the descent."""

    x: PerImage
    q: PerImage
    eps_0: float | None = None
    descent: DescentState = field(default_factory=DescentState)


@torch.no_grad()
def adjoint_steps(
    hessian: Callable[[Tensor], Tensor], b: Tensor, start: Tensor, tau: float, count: int
) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
    """Return q after `count` gradient steps on 1/2 <q, H q> - <b, q>.

    They satisfy q - H^-1 b = (I - tau H)^count (start - H^-1 b).
    """
    q = start
    for _ in range(count):
        q = q - tau * (hessian(q) - b)
    return q


@dataclass(frozen=True, kw_only=True)
class Amigo(Stochastic):
    """Gradient steps on the lower level and on the linear system, both from where the last visit of an image ended."""

    solve: Solver = lbfgs.solve  # of the trials that find the first step size, and of nothing else
    descent: Descent = field(default_factory=Descent)
    lower_steps: int = 10  # T
    adjoint_steps: int = 10  # N

    def begin(self, finite_sum: bool) -> AmigoState:
        return AmigoState(PerImage(finite_sum), PerImage(finite_sum))

    def step(self, k: int, batch: Batch, state: AmigoState) -> Step:
        here = Iteration.begin(k, batch)
        energy, tau = here.energy, 2 / sum(here.energy.bounds)
        start = state.x.recall(batch.images, energy.start)
        x, error_bound = gradient_steps(energy, start, tau, self.lower_steps)
        q = state.q.recall(batch.images, torch.zeros_like(x))
        q = adjoint_steps(energy.hessian(x), batch.loss.gradient(x), q, tau, self.adjoint_steps)
        loss, z = here.truncated_hypergradient(x, q)
        state.x.remember(batch.images, x)
        state.q.remember(batch.images, q)
        here.cost.computations += len(x) * (self.lower_steps + self.adjoint_steps)
        trial = here.tight_loss(self.solve, x, here.first_accuracy(state))
        longest = partial(longest_descent, here.theta, z, trial)
        # Where nothing is carried over, nothing lags behind.
        damping, share = (self._damping(energy), SHARE) if state.x.kept else (1.0, 1.0)
        alpha = self.descent.step(here, z, state.descent, longest, damping, share)
        return here.report_truncated(x, loss, error_bound, alpha, (self.lower_steps, self.adjoint_steps))

    def _damping(self, energy: Energy) -> float:
        """Return 1 - r, of the present theta."""
        mu, largest = energy.bounds
        gamma = (largest - mu) / (largest + mu)
        return 1 - gamma ** min(self.lower_steps, self.adjoint_steps)
