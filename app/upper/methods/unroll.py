"""Reverse mode through T iterations of the accelerated gradient (Nesterov 2004, scheme 2.2.22, as in app/lower/agd.py).

    x_{t+1} = z_t - tau grad h(z_t),    z_{t+1} = x_{t+1} + beta (x_{t+1} - x_t),    z_0 = x_0,

tau = 1 / L and beta = (1 - sqrt q) / (1 + sqrt q), q = mu / L, from the proven bounds, both held constant in the
derivative. With lambda_t = d loss(x_T) / dx_t, zeta_t = d loss(x_T) / dz_t, backwards from lambda_T = grad loss(x_T),

    zeta_t = (I - tau d2h/dx2(z_t)) lambda_{t+1},    lambda_t = (1 + beta) zeta_t - beta zeta_{t+1},    zeta_T = 0,
    z = mean_b - tau sum_t J(z_t)^T lambda_{t+1},

in closed form, without a graph. z is the gradient of loss(x_T), not of loss(argmin h), which it approaches as fast as
x_T does, up to a factor T. `backward_steps` = K keeps the last K terms of the sum, and as many points in memory
(truncated back-propagation: Shaban, Cheng, Hatch, Boots, arXiv 1810.10667). A finite sum starts at the last x of each
image without differentiating it, which truncates too (arXiv 2602.19733). The T derivatives J^T are not among the
computations, which count gradients and products alone: at equal counts a step takes longer than that of others.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.solution import NonFiniteError, norm
from app.upper.descent import Descent, DescentState, longest_descent
from app.upper.hypergradient import Learned
from app.upper.iteration import Iteration
from app.upper.method import Batch, Step, Stochastic
from app.upper.state import PerImage


@dataclass
class UnrollState:
    """The last x of each image and the state of the descent."""

    x: PerImage
    descent: DescentState = field(default_factory=DescentState)


@dataclass(frozen=True)
class Trajectory:
    """Where the iteration ended, and the points that the derivative needs."""

    x: Tensor  # x_T (B, C, H, W)
    points: Sequence[Tensor]  # the last z_t, up to z_{T-1}
    error_bound: Tensor  # (B,) >= ||x_T - argmin h||, from the gradient at z_{T-1}


def coefficients(energy: Energy) -> tuple[float, float]:
    """Return (tau, beta)."""
    mu, largest = energy.bounds
    root = (mu / largest) ** 0.5
    return 1 / largest, (1 - root) / (1 + root)


@torch.no_grad()
def forward(energy: Energy, start: Tensor, iterations: int, kept: int) -> Trajectory:  # start (B, C, H, W)
    """Make `iterations` >= 1 steps and keep the last `kept` of their points.

    A gradient step of length 1 / L contracts by 1 - mu / L, hence the bound.
    """
    tau, beta = coefficients(energy)
    mu, largest = energy.bounds
    points: deque[Tensor] = deque(maxlen=kept)
    x = z = start
    g = torch.zeros_like(start)
    for _ in range(iterations):
        points.append(z)
        g = energy.gradient(z)
        x_next = z - tau * g
        x, z = x_next, x_next + beta * (x_next - x)
    return Trajectory(x, points, (1 - mu / largest) * norm(g) / mu)


@torch.no_grad()
def backward(
    learned: Learned, energy: Energy, trajectory: Trajectory, b: Tensor
) -> tuple[Tensor, ...]:  # b (B, C, H, W)
    """Return the derivative of the mean loss by theta, b = grad loss(x_T).

    It takes a product with H at every point but the first, and J^T at every point.
    """
    tau, beta = coefficients(energy)
    adjoints, zeta = [b], torch.zeros_like(b)
    for z in list(trajectory.points)[:0:-1]:
        before, zeta = zeta, adjoints[-1] - tau * energy.hessian(z)(adjoints[-1])
        adjoints.append((1 + beta) * zeta - beta * before)
    terms = [learned.mixed(*pair) for pair in zip(trajectory.points, adjoints[::-1], strict=True)]
    return tuple(-tau / len(b) * torch.stack(parts).sum(0) for parts in zip(*terms, strict=True))


@dataclass(frozen=True, kw_only=True)
class Unroll(Stochastic):
    """The derivative of an accelerated gradient method, iteration by iteration."""

    descent: Descent = field(default_factory=Descent)
    iterations: int = 20  # T
    backward_steps: int = 0  # K; 0 for all T

    def begin(self, finite_sum: bool) -> UnrollState:
        return UnrollState(PerImage(finite_sum))

    def step(self, k: int, batch: Batch, state: UnrollState) -> Step:
        here = Iteration.begin(k, batch)
        start = state.x.recall(batch.images, here.energy.start)
        kept = min(self.backward_steps or self.iterations, self.iterations)
        end = forward(here.energy, start, self.iterations, kept)
        z = batch.share.mean(backward(batch.learned, here.energy, end, batch.loss.gradient(end.x)))
        loss, counts = batch.loss.value(end.x), (self.iterations, kept - 1)
        here.require_finite(loss, *z)
        state.x.remember(batch.images, end.x)
        here.cost.computations += len(start) * sum(counts)
        alpha = self.descent.step(
            here, z, state.descent, partial(longest_descent, here.theta, z, self._trial(here, start))
        )
        return here.report_truncated(end.x, loss, end.error_bound, alpha, counts)

    def _trial(self, here: Iteration, start: Tensor) -> Callable[[], float]:
        """Return theta -> the mean loss after T iterations from the same start, of which z is the gradient."""

        def loss() -> float:
            here.cost.computations += len(start) * self.iterations
            try:
                x = forward(here.batch.energy(), start, self.iterations, 1).x
            except NonFiniteError:
                return float("inf")
            return float(here.batch.share.gather(here.batch.loss.value(x)).mean())

        return loss
