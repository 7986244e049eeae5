"""One hypergradient, by this program and as it is written elsewhere.

Each rival returns the derivative of the mean loss by the parameters as one vector, and takes the number that decides
its accuracy.
"""

import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import deepinv
import torch
from deepinv.optim import L2, Prior
from deepinv.optim.linear import conjugate_gradient as deepinv_conjugate_gradient
from torch import Tensor

from app.lower import lbfgs
from app.lower.energy import Energy
from app.lower.solution import norm
from app.problem.losses import SquaredError
from app.upper.hypergradient import Hypergradient, hypergradient
from regularizers import FieldOfExperts
from scripts.benchmarks.lower_methods import Arrived, Late, fista, largest_eigenvalue
from scripts.benchmarks.reference import plain


def vector(gradients: tuple[Tensor, ...]) -> Tensor:  # n x (...) -> (N,)
    """Join gradients into one vector, in float64."""
    return torch.cat([g.flatten() for g in gradients]).double()


def ours(regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, accuracy: float) -> Hypergradient:
    """Compute a hypergradient with this program."""
    return hypergradient(regularizer, energy, loss, lbfgs.solve, energy.backprojection, accuracy=accuracy)


def written_today(
    regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, accuracy: float, deadline: float
) -> Tensor:  # (N,)
    """Solve by FISTA at an L estimated by power iteration, until ||grad h|| / mu <= accuracy on every image, and by
    deepinv's conjugate gradients to the same residual; autograd finds every derivative. Raises Late at the deadline."""
    functional, x, (mu, _) = regularizer.functional(), energy.y, energy.bounds
    with torch.no_grad():
        field = plain(regularizer.functional())
    energy = replace(energy, functional=field)

    def gradient(z: Tensor) -> Tensor:
        nonlocal x
        x, g = z, energy.gradient(z)
        if (norm(g) / mu <= accuracy).all():
            raise Arrived
        if time.perf_counter() > deadline:
            raise Late
        return g

    observed: Any = SimpleNamespace(gradient=gradient)
    with suppress(Arrived):
        fista(observed, x, largest_eigenvalue(energy, torch.zeros_like(x)))  # flat: where curvature is largest
    b = loss.gradient(x)
    tolerance = accuracy / float(norm(b).min())
    q = deepinv_conjugate_gradient(energy.hessian(x), b, max_iter=2000, tol=tolerance, parallel_dim=0)
    cotangents = field.mixed(x, q.detach())
    gradients = torch.autograd.grad(functional.natural, tuple(regularizer.parameters()), cotangents)
    return vector(tuple(-g / len(x) for g in gradients))


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
    prior = Prior(g=lambda x, *_: plain(regularizer.functional()).value(x))  # type: ignore[arg-type]
    solver = deepinv.optim.GD(
        data_fidelity=L2(), prior=prior, stepsize=2 / (mu + largest), max_iter=int(iterations), unfold=True,
        trainable_params=[], DEQ=deepinv.optim.DEQConfig(max_iter_backward=int(iterations)),
    )  # fmt: skip
    x = solver(energy.y, energy.operator.physics)  # type: ignore[attr-defined]
    return vector(torch.autograd.grad(loss.value(x).mean(), tuple(regularizer.parameters())))
