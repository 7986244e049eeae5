"""One hypergradient, as this program computes it and as it is written elsewhere.

Each method takes the number that decides its accuracy and returns the derivative of the mean loss by the parameters, as
one vector (P,). Where its time is over it raises Late.
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
from scripts.benchmarks.reference import AutogradField


def vector(gradients: tuple[Tensor, ...]) -> Tensor:  # -> (P,)
    """Join the gradients by all parameters in one vector."""
    return torch.cat([g.flatten() for g in gradients]).double()


def ours(regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, accuracy: float) -> Hypergradient:
    """Compute it as this program does."""
    return hypergradient(regularizer, energy, loss, lbfgs.solve, energy.backprojection, None, accuracy)


def written_today(
    regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, accuracy: float, deadline: float
) -> Tensor:  # -> (P,)
    """Compute it as one writes it today, with every derivative by autograd.

    FISTA at an L estimated by power iteration runs until ||grad h|| / mu <= accuracy on every image, deepinv's
    conjugate gradients to the same residual. The function is long because it shows such a program as a whole.
    """
    functional = regularizer.functional()
    field, y = AutogradField(functional), energy.y
    mu, _ = energy.bounds

    v = torch.randn_like(y)
    for _ in range(20):
        v = v / per_image(norm(v))
        v = v + field.hessian_product(torch.zeros_like(y), v)  # flat images are where the curvature is largest
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
    q = deepinv_conjugate_gradient(
        lambda p: p + field.hessian_product(x, p), b, max_iter=2000, tol=tolerance, parallel_dim=0
    )
    cotangents = field.mixed(x, q.detach())
    gradients = torch.autograd.grad(functional.natural, tuple(regularizer.parameters()), cotangents)
    return vector(tuple(-g / len(y) for g in gradients))


class PlainPrior(Prior):
    """The regularizer as a prior of deepinv, with every derivative by autograd."""

    def __init__(self, regularizer: FieldOfExperts) -> None:
        super().__init__()
        self.explicit_prior, self.regularizer = True, regularizer

    def fn(self, x: Tensor, *args, **kwargs) -> Tensor:
        return AutogradField(self.regularizer.functional()).value(x)

    def grad(self, x: Tensor, *args, **kwargs) -> Tensor:
        if torch.is_grad_enabled():
            return AutogradField(self.regularizer.functional()).gradient(
                x if x.requires_grad else x.requires_grad_(), keep_graph=True
            )
        return AutogradField(self.regularizer.frozen()).gradient(x)  # type: ignore[arg-type]


def unrolled(
    regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, iterations: float, deadline: float
) -> Tensor:  # -> (P,)
    """Differentiate through that many steps of accelerated gradient descent at the proven L and mu."""
    functional = regularizer.functional()
    field, (mu, largest) = AutogradField(functional), energy.bounds
    root = (mu / largest) ** 0.5
    x = z = energy.y.clone().requires_grad_()
    for _ in range(int(iterations)):
        x_next = z - (z - energy.y + field.gradient(z, keep_graph=True)) / largest
        z, x = x_next + (1 - root) / (1 + root) * (x_next - x), x_next
    mean = loss.value(x).mean()
    return vector(torch.autograd.grad(mean, tuple(regularizer.parameters())))


def deep_equilibrium(
    regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, iterations: float, deadline: float
) -> Tensor:  # -> (P,)
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
