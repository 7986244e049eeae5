"""One hypergradient, by this program and as it is written elsewhere.

Each rival returns the derivative of the mean loss by the parameters as one vector, and takes the number that decides
its accuracy.
"""

import time

import deepinv
import torch
from deepinv.optim import L2, Prior
from deepinv.optim.linear import conjugate_gradient as deepinv_conjugate_gradient
from torch import Tensor

from app.lower import lbfgs
from app.lower.energy import Energy
from app.lower.solution import norm, per_image
from app.problem.losses import SquaredError
from app.upper.hypergradient import Hypergradient, hypergradient
from regularizers import FieldOfExperts
from scripts.benchmarks.lower_methods import Late
from scripts.benchmarks.reference import plain


def vector(gradients: tuple[Tensor, ...]) -> Tensor:  # n x (...) -> (N,)
    """Join gradients into one vector, in float64."""
    return torch.cat([g.flatten() for g in gradients]).double()


def ours(regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, accuracy: float) -> Hypergradient:
    """Compute a hypergradient with this program."""
    return hypergradient(regularizer, energy, loss, lbfgs.solve, energy.backprojection, None, accuracy)


def written_today(
    regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, accuracy: float, deadline: float
) -> Tensor:  # (N,)
    """Solve by FISTA at an L estimated by power iteration, until ||grad h|| / mu <= accuracy on every image, and by
    deepinv's conjugate gradients to the same residual; autograd finds every derivative. Raises Late at the deadline."""
    functional, y, (mu, _) = regularizer.functional(), energy.y, energy.bounds
    with torch.no_grad():
        field = plain(regularizer.functional())

    v, hessian = torch.randn_like(y), field.hessian(torch.zeros_like(y))
    for _ in range(20):
        v = v / per_image(norm(v))
        v = v + hessian(v)  # flat images are where the curvature is largest
    step = 1 / float(norm(v).max())

    x = z = y
    t = 1.0
    while True:
        g = z - y + field.gradient(z)
        if (norm(g) / mu <= accuracy).all():
            x = z.detach()
            break
        if time.perf_counter() > deadline:
            raise Late
        x_next = (z - step * g).detach()
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        z, x, t = x_next + (t - 1) / t_next * (x_next - x), x_next, t_next

    b = loss.gradient(x)
    tolerance = accuracy / float(norm(b).min())
    hessian = field.hessian(x)
    q = deepinv_conjugate_gradient(lambda p: p + hessian(p), b, max_iter=2000, tol=tolerance, parallel_dim=0)
    cotangents = field.mixed(x, q.detach())
    gradients = torch.autograd.grad(functional.natural, tuple(regularizer.parameters()), cotangents)
    return vector(tuple(-g / len(y) for g in gradients))


class PlainPrior(Prior):
    """The regularizer as a prior of deepinv, with every derivative by autograd."""

    def __init__(self, regularizer: FieldOfExperts) -> None:
        super().__init__()
        self.explicit_prior, self.regularizer = True, regularizer

    def fn(self, x: Tensor, *args, **kwargs) -> Tensor:
        return plain(self.regularizer.functional()).value(x)

    def grad(self, x: Tensor, *args, **kwargs) -> Tensor:
        return plain(self.regularizer.functional()).gradient(x)


def unrolled(
    regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, iterations: float, deadline: float
) -> Tensor:  # (N,)
    """Differentiate by reverse mode through that many steps of accelerated gradient descent at the proven L and mu."""
    field, (mu, largest) = plain(regularizer.functional()), energy.bounds
    root = (mu / largest) ** 0.5
    x = z = energy.y.clone().requires_grad_()
    for _ in range(int(iterations)):
        x_next = z - (z - energy.y + field.gradient(z)) / largest
        z, x = x_next + (1 - root) / (1 + root) * (x_next - x), x_next
    mean = loss.value(x).mean()
    return vector(torch.autograd.grad(mean, tuple(regularizer.parameters())))


def deep_equilibrium(
    regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, iterations: float, deadline: float
) -> Tensor:  # (N,)
    """Run deepinv's deep-equilibrium gradient descent, with that many steps forward and backward."""
    mu, largest = energy.bounds
    solver = deepinv.optim.GD(
        data_fidelity=L2(),
        prior=PlainPrior(regularizer),
        stepsize=2 / (mu + largest),
        max_iter=int(iterations),
        unfold=True,
        trainable_params=[],
        DEQ=deepinv.optim.DEQConfig(max_iter_backward=int(iterations)),
    )
    x = solver(energy.y, energy.operator.physics)  # type: ignore[attr-defined]
    return vector(torch.autograd.grad(loss.value(x).mean(), tuple(regularizer.parameters())))
