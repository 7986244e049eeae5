"""Other ways to the minimiser of h, as they are written elsewhere; all stopped when the true error is small enough.

Each takes (energy, start) and evaluates `energy.gradient` (or, for a deepinv optimiser, its prior's) until the observer
raises Arrived.
"""

import time
from dataclasses import dataclass, field

import deepinv
import torch
from deepinv.optim import L2, Prior
from torch import Tensor

from app.lower.energy import Energy
from app.lower.solution import dot, norm, per_image


class Arrived(Exception):
    """Says that every image is within the accuracy."""


class Late(Exception):
    """Says that the time is up."""


@dataclass
class Observer:
    """Stands in for an energy; counts gradients and knows the minimiser."""

    energy: Energy
    minimiser: Tensor
    accuracy: float
    deadline: float = float("inf")  # on the clock of time.perf_counter
    gradients: int = 0
    arrived: Tensor = field(init=False)  # (B,) gradients until the error was small enough

    def __post_init__(self) -> None:
        self.arrived = torch.zeros(len(self.minimiser), dtype=torch.long)

    def __getattr__(self, name: str):
        return getattr(self.energy, name)

    def take(self, images: Tensor):
        """Return the energy of these images; the observer itself, which keeps every image to the end, for all."""
        return self if len(images) == len(self.minimiser) else self.energy.take(images)

    def gradient(self, x: Tensor) -> Tensor:
        self.note(x)
        return self.energy.gradient(x)

    def note(self, x: Tensor) -> None:
        self.gradients += 1
        near = (norm(x - self.minimiser) <= self.accuracy).cpu() & (self.arrived == 0)
        self.arrived[near] = self.gradients
        if (self.arrived > 0).all():
            raise Arrived
        if time.perf_counter() > self.deadline:
            raise Late


def largest_eigenvalue(energy: Energy, x: Tensor, iterations: int = 20) -> float:
    """Estimate the largest eigenvalue of the Hessian at x (B, C, H, W) from below, by power iteration."""
    hessian, v = energy.hessian(x), torch.randn_like(x)
    for _ in range(iterations):
        v = hessian(v / per_image(norm(v)))
    return float(norm(v).max())


def gradient_descent(energy: Observer, x: Tensor) -> None:  # (B, C, H, W)
    """Step along the gradient by the step size that is best for the proven mu and L."""
    mu, largest = energy.bounds
    while True:
        x = x - 2 / (mu + largest) * energy.gradient(x)


def fista(energy: Observer, x: Tensor, largest: float | None = None) -> None:  # (B, C, H, W)
    """Step with Beck and Teboulle's momentum, at the proven L or a given one."""
    step = 1 / (largest or energy.bounds[1])
    z, t = x, 1.0
    while True:
        x_next = z - step * energy.gradient(z)
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        z, x, t = x_next + (t - 1) / t_next * (x_next - x), x_next, t_next


def fista_estimated(energy: Observer, x: Tensor) -> None:  # (B, C, H, W)
    """Run FISTA at an estimated L."""
    fista(energy, x, largest_eigenvalue(energy.energy, torch.zeros_like(x)))  # flat: where curvature is largest


def plain_lbfgs(energy: Observer, x: Tensor) -> None:  # (1, C, H, W)
    """Run torch.optim.LBFGS with its strong-Wolfe line search, on one image."""
    x = x.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=1000, history_size=10, line_search_fn="strong_wolfe",
                                  tolerance_grad=0, tolerance_change=0)  # fmt: skip

    def closure() -> Tensor:
        with torch.no_grad():
            x.grad = energy.gradient(x.detach())
            return energy.value(x.detach()).sum()

    for _ in range(100):
        optimizer.step(closure)


def barzilai_borwein(energy: Observer, x: Tensor) -> None:  # (B, C, H, W)
    """Step along the gradient by the step size of Barzilai and Borwein, one per image."""
    g, step = energy.gradient(x), 1 / energy.bounds[1]
    steps = torch.full((len(x),), step, device=x.device, dtype=x.dtype)
    while True:
        x_next = x - per_image(steps) * g
        g_next = energy.gradient(x_next)
        s, y = x_next - x, g_next - g
        steps = dot(s, y) / dot(y, y).clamp(min=1e-30)
        x, g = x_next, g_next


def deepinv_gradient_descent(energy: Observer, x: Tensor) -> None:  # (B, C, H, W)
    """Run deepinv.optim.GD with its backtracking (A = identity); the gradient of its prior is what is observed."""

    def gradient(x: Tensor, *args, **kwargs) -> Tensor:
        energy.note(x)
        return energy.functional.gradient(x)

    prior = Prior(g=lambda z, *_: energy.functional.value(z))  # type: ignore[arg-type]
    prior.grad = gradient
    solver = deepinv.optim.GD(data_fidelity=L2(), prior=prior, stepsize=1.0, backtracking=True,
                              max_iter=100_000, custom_init=lambda y, physics: {"est": (x, x)})  # fmt: skip
    solver(energy.y, energy.operator.physics)
