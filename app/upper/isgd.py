"""Inexact stochastic gradient descent (Salehi, Mukherjee, Roberts, Ehrhardt: arXiv 2412.12049, Algorithm 1).

    theta_{k+1} = theta_k - alpha_k z_k,    z_k the hypergradient of a random mini-batch to accuracy eps_k,

plain, or with z_k preconditioned by Adam (arXiv 2511.06774).
"""

import math
from dataclasses import dataclass, replace

import torch

from app.lower.energy import Energy
from app.upper.bound import error_bound
from app.upper.hypergradient import Hypergradient, Learned, Loss, Solver, hypergradient
from app.upper.schedules import Schedule


@dataclass(frozen=True)
class Batch:
    """One mini-batch of the lower-level problem, and where its solvers start."""

    energy: Energy
    loss: Loss
    start: torch.Tensor
    adjoint_start: torch.Tensor | None


class NonFiniteError(ArithmeticError):
    """A loss or hypergradient overflowed or became NaN."""


@dataclass(frozen=True)
class Isgd:
    """The method's settings; its only state is the optimizer's."""

    solve: Solver
    step_size: Schedule  # alpha_k
    accuracy: Schedule  # eps_k
    relative_accuracy: float = 0.0  # eta with omega <= eta ||z_k||; 0 leaves it at eps_k

    def step(self, k: int, regularizer: Learned, optimizer: torch.optim.Optimizer, batch: Batch) -> Hypergradient:
        """theta_k -> theta_{k+1}, in place. Raises NonFiniteError with theta_k untouched."""
        if not all(math.isfinite(bound) for bound in batch.energy.bounds):
            raise NonFiniteError(f"the curvature of the energy is not finite at step {k}")
        z = self._hypergradient(k, regularizer, batch)
        if not all(bool(t.isfinite().all()) for t in (z.loss, *z.gradient)):
            raise NonFiniteError(f"the loss or its gradient is not finite at step {k}")
        for parameter, gradient in zip(regularizer.parameters(), z.gradient, strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = self.step_size(k)
        optimizer.step()
        return z

    def _hypergradient(self, k: int, regularizer: Learned, batch: Batch) -> Hypergradient:
        """To accuracy eps_k, or until the proven error is the share `relative_accuracy` of its norm, as far as rounding
        lets the solvers go."""
        accuracy, start, adjoint_start, spent = self.accuracy(k), batch.start, batch.adjoint_start, 0
        while True:
            z = hypergradient(regularizer, batch.energy, batch.loss, self.solve, start, adjoint_start, accuracy)
            z = replace(z, computations=z.computations + spent)
            if self.relative_accuracy == 0 or not (z.lower.converged & z.linear.converged).all():
                return z
            omega = error_bound(regularizer, batch.energy, batch.loss.smoothness, z.lower, z.linear).mean()
            if omega <= self.relative_accuracy * sum(g.square().sum() for g in z.gradient) ** 0.5:
                return z
            accuracy, start, adjoint_start, spent = accuracy / 10, z.lower.x, z.linear.q, z.computations
