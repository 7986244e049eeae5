"""Inexact stochastic gradient descent (Salehi, Mukherjee, Roberts, Ehrhardt: arXiv 2412.12049, Algorithm 1).

    theta_{k+1} = theta_k - alpha_k z_k,    z_k the hypergradient of a random mini-batch to accuracy eps_k,

plain, or with z_k preconditioned by Adam (arXiv 2511.06774).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from app.lower.energy import Energy
from app.upper.hypergradient import Hypergradient, Loss, Solver, hypergradient
from app.upper.schedules import Schedule


class Learned(Protocol):
    """What the upper level moves: parameters theta and mixed(x, q) = J^T q summed over the batch, in their order."""

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def mixed(self, x: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, ...]: ...


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

    def step(self, k: int, regularizer: Learned, optimizer: torch.optim.Optimizer, batch: Batch) -> Hypergradient:
        """theta_k -> theta_{k+1}, in place. Raises NonFiniteError with theta_k untouched."""
        if not all(math.isfinite(bound) for bound in batch.energy.bounds):
            raise NonFiniteError(f"the curvature of the energy is not finite at step {k}")
        z = hypergradient(
            regularizer.mixed,
            batch.energy,
            batch.loss,
            self.solve,
            batch.start,
            batch.adjoint_start,
            self.accuracy(k),
        )
        if not all(bool(t.isfinite().all()) for t in (z.loss, *z.gradient)):
            raise NonFiniteError(f"the loss or its gradient is not finite at step {k}")
        for parameter, gradient in zip(regularizer.parameters(), z.gradient, strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = self.step_size(k)
        optimizer.step()
        return z
