"""What a lower-level solver returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowerSolution:
    """x with ||x_b - argmin h_b|| <= error_bound_b = ||grad h_b(x_b)|| / mu, for each image b of the batch."""

    x: Tensor  # (B, C, H, W)
    error_bound: Tensor  # (B,), on the scale of ||x||
    converged: Tensor  # (B,) bool: error_bound <= the accuracy asked for
    iterations: Tensor  # (B,) gradients of h evaluated


NOT_CERTIFIED = "not certified: the energy is not provably strongly convex"


class NonFiniteError(ArithmeticError):
    """Parameters, a loss or a gradient have left the range of numbers."""


class NotStronglyConvexError(ValueError):
    """The energy has no positive strong-convexity constant, so no tolerance can be certified."""

    def __init__(self, mu: float) -> None:
        super().__init__(
            f"the energy is not provably strongly convex (mu = {mu:.3g}): raise problem.ridge above "
            f"{max(-mu, 0):.3g}, use a convex regularizer, or let isgd go on without certificates "
            f"(lower.uncertified = true)"
        )


def norm(x: Tensor) -> Tensor:  # (B, ...) -> (B,)
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def dot(a: Tensor, b: Tensor) -> Tensor:  # (B, ...), (B, ...) -> (B,)
    return (a * b).flatten(1).sum(1)


def per_image(scalars: Tensor) -> Tensor:  # (B,) -> (B, 1, 1, 1)
    return scalars[:, None, None, None]


def check_every(device: torch.device) -> int:
    """Iterations between looks at which images are done: off the CPU, a look waits for the device."""
    return 1 if device.type == "cpu" else 8
