"""Jacobian-free backpropagation (Wu Fung, Heaton, Li, McKenzie, Osher, Yin: JFB, arXiv 2103.12803).

argmin h is the fixed point of T(x) = x - tau grad h(x), and implicit differentiation of x = T(x) gives

    grad f = dT/dtheta^T (I - dT/dx)^-1 b = - J^T H^-1 b,    b = grad loss(x),  I - dT/dx = tau H.

The method leaves the inverse out:  z = dT/dtheta^T b = - tau J^T b,  no linear system and no products with H.

tau = 2 / (mu + L) makes T contract fastest, by gamma = (L - mu) / (L + mu), which is what the descent theorem of the
paper asks for: gamma below the inverse condition number of the Gram matrix of dT/dtheta. It is also the tau with the
least proven error, ||tau b - H^-1 b|| <= gamma ||H^-1 b||. Where H = I / tau, z is exact. At one theta, tau changes the
length of z only.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from app.lower.energy import Solver
from app.upper.descent import Descent
from app.upper.method import Batch, Computations, State, Step, energy_at, first_accuracy, require_finite
from app.upper.schedules import Schedule
from app.upper.trial import tight_loss


@dataclass(frozen=True)
class Jfb:
    solve: Solver
    descent: Descent
    schedule: Schedule  # eps_k / eps_0
    accuracy: float  # eps_0; 0 to find it at the first step

    full_batch: ClassVar[bool] = False
    finite_sum: ClassVar[bool] = False
    needs_convexity: ClassVar[bool] = True

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost = energy_at(k, batch), Computations()
        accuracy = batch.coarseness * self.schedule(k) * (self.accuracy or first_accuracy(batch, energy, state))
        lower = self.solve(energy, state.recall("x", batch.images, energy.start), accuracy)
        q = 2 / sum(energy.bounds) * batch.loss.gradient(lower.x)
        z = tuple(-g / len(q) for g in batch.learned.mixed(lower.x, q))
        loss = batch.loss.value(lower.x)
        require_finite(k, loss, *z)
        state.remember("x", batch.images, lower.x)
        cost.add(lower.iterations)
        trial = tight_loss(batch, self.solve, lower.x, accuracy, cost)
        alpha = self.descent.step(k, tuple(batch.learned.parameters()), z, state, trial)
        products = torch.zeros_like(lower.iterations)
        return Step(
            lower.x, loss, accuracy, alpha, lower.error_bound, lower.converged, lower.iterations, products, cost.total
        )
