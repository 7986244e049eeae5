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
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.solution import NonFiniteError, norm
from app.upper.descent import Descent
from app.upper.hypergradient import Learned
from app.upper.method import Batch, Computations, State, Step, energy_at, report_truncated, require_finite


@dataclass(frozen=True)
class Path:
    x: Tensor  # x_T (B, C, H, W)
    points: Sequence[Tensor]  # the last z_t, up to z_{T-1}
    error_bound: Tensor  # (B,) >= ||x_T - argmin h||, from the gradient at z_{T-1}


def coefficients(energy: Energy) -> tuple[float, float]:
    """(tau, beta)."""
    mu, largest = energy.bounds
    root = (mu / largest) ** 0.5
    return 1 / largest, (1 - root) / (1 + root)


@torch.no_grad()
def forward(energy: Energy, start: Tensor, iterations: int, kept: int) -> Path:  # (B, C, H, W)
    """`iterations` >= 1 steps, the last `kept` points of which are remembered.

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
    return Path(x, points, (1 - mu / largest) * norm(g) / mu)


@torch.no_grad()
def backward(learned: Learned, energy: Energy, path: Path, b: Tensor) -> tuple[Tensor, ...]:
    """The derivative of the mean loss by theta, b = grad loss(x_T): a product with H per point but the first, and J^T
    at every point."""
    tau, beta = coefficients(energy)
    adjoints, zeta = [b], torch.zeros_like(b)
    for z in list(path.points)[:0:-1]:
        before, zeta = zeta, adjoints[-1] - tau * energy.hessian(z)(adjoints[-1])
        adjoints.append((1 + beta) * zeta - beta * before)
    sums = learned.mixed(torch.cat(list(path.points)), torch.cat(adjoints[::-1]))
    return tuple(-tau / len(b) * g for g in sums)


@dataclass(frozen=True)
class Unroll:
    descent: Descent
    iterations: int  # T
    backward_steps: int = 0  # K; 0 for all T

    full_batch: ClassVar[bool] = False
    finite_sum: ClassVar[bool] = False
    needs_convexity: ClassVar[bool] = True

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost = energy_at(k, batch), Computations()
        start = state.recall("x", batch.images, energy.start)
        kept = min(self.backward_steps or self.iterations, self.iterations)
        path = forward(energy, start, self.iterations, kept)
        z = backward(batch.learned, energy, path, batch.loss.gradient(path.x))
        loss, counts = batch.loss.value(path.x), (self.iterations, kept - 1)
        require_finite(k, loss, *z)
        state.remember("x", batch.images, path.x)
        cost.total += len(start) * sum(counts)
        trial = self._trial(batch, start, cost)
        alpha = self.descent.step(k, tuple(batch.learned.parameters()), z, state, trial)
        return report_truncated(path.x, loss, path.error_bound, alpha, counts, cost.total)

    def _trial(self, batch: Batch, start: Tensor, cost: Computations) -> Callable[[], float]:
        """theta -> the mean loss after T iterations from the same start, of which z is the gradient."""

        def loss() -> float:
            cost.total += len(start) * self.iterations
            try:
                x = forward(batch.energy(), start, self.iterations, 1).x
            except NonFiniteError:
                return float("inf")
            return float(batch.loss.value(x).mean())

        return loss
