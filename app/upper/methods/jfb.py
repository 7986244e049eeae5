"""Jacobian-free backpropagation (Wu Fung, Heaton, Li, McKenzie, Osher, Yin: JFB, arXiv 2103.12803).

argmin h is the fixed point of T(x) = x - tau grad h(x), and implicit differentiation of x = T(x) gives

    grad f = dT/dtheta^T (I - dT/dx)^-1 b = - J^T H^-1 b,    b = grad loss(x),  I - dT/dx = tau H.

The method leaves the inverse out:  z = dT/dtheta^T b = - tau J^T b,  no linear system and no products with H.

tau = 2 / (mu + L) makes T contract fastest, by gamma = (L - mu) / (L + mu), which is what the descent theorem of the
paper asks for: gamma below the inverse condition number of the Gram matrix of dT/dtheta. It is also the tau with the
least proven error, ||tau b - H^-1 b|| <= gamma ||H^-1 b||. Where H = I / tau, z is exact. At one theta, tau changes the
length of z only.
"""

from dataclasses import dataclass, field
from functools import partial

import torch

from app.lower import lbfgs
from app.lower.energy import Solver
from app.upper.descent import Descent, DescentState, longest_descent
from app.upper.iteration import Iteration
from app.upper.method import Batch, Step, Stochastic
from app.upper.schedules import Schedule, constant
from app.upper.state import PerImage


@dataclass
class JfbState:
    """The last x of each image, eps_0 and the state of the descent."""

    x: PerImage
    eps_0: float | None = None
    descent: DescentState = field(default_factory=DescentState)


@dataclass(frozen=True, kw_only=True)
class Jfb(Stochastic):
    """A certified solve of the lower level, and a multiple of the identity for its inverse Hessian."""

    solve: Solver = lbfgs.solve
    descent: Descent = field(default_factory=Descent)
    schedule: Schedule = field(default_factory=constant)  # eps_k / eps_0
    accuracy: float = 0.0  # eps_0; 0 to find it at the first step

    def begin(self, finite_sum: bool) -> JfbState:
        return JfbState(PerImage(finite_sum))

    def step(self, k: int, batch: Batch, state: JfbState) -> Step:
        here = Iteration.begin(k, batch)
        energy, accuracy = here.energy, here.accuracy(self.schedule, self.accuracy, state)
        lower = self.solve(energy, state.x.recall(batch.images, energy.start), accuracy)
        loss, z = here.truncated_hypergradient(lower.x, 2 / sum(energy.bounds) * batch.loss.gradient(lower.x))
        state.x.remember(batch.images, lower.x)
        here.cost.add(lower.iterations)
        longest = partial(longest_descent, here.theta, z, here.tight_loss(self.solve, lower.x, accuracy))
        alpha = self.descent.step(here, z, state.descent, longest)
        return Step(
            x=lower.x, loss=loss, accuracy=accuracy, step_size=alpha, error_bound=lower.error_bound,
            certified=lower.converged, lower_iterations=lower.iterations,
            linear_iterations=torch.zeros_like(lower.iterations), computations=here.cost.computations,
        )  # fmt: skip
