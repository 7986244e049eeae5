"""What a lower-level solver returns, the errors of the lower level, and arithmetic per image of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import Any, Self

import torch
from torch import Tensor


class PerImage:
    """The base of dataclasses whose fields have one entry per image: tensors, or further records of this kind."""

    def take(self, images: Tensor) -> Self:
        """Return the record of these images (K,) of the batch. Numbers and None stay as they are."""

        def part(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[images]
            return value if value is None or isinstance(value, int) else value.take(images)

        return type(self)(**{name: part(value) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class LowerSolution(PerImage):
    """A point x with ||x_b - argmin h_b|| <= error_bound_b, for each image b of the batch.

    A solver states ||grad h_b(x_b)|| / mu as its own precision computes it: an estimate. `certificate.py` states what
    is proven; of a regularizer that is conditioned on the z of a guide, given this z.
    """

    x: Tensor  # (B, C, H, W)
    error_bound: Tensor  # (B,), on the scale of ||x||
    converged: Tensor  # (B,) bool: error_bound <= the accuracy asked for
    iterations: Tensor  # (B,) gradients of h evaluated, and preconditioners computed


def in_order(solutions: Sequence[LowerSolution]) -> LowerSolution:
    """Return the solutions of several batches, of images of one shape, as that of one."""
    return LowerSolution(**{name: torch.cat([vars(s)[name] for s in solutions]) for name in vars(solutions[0])})


NOT_CERTIFIED = "not certified: the energy is not provably strongly convex"


class NonFiniteError(ArithmeticError):
    """Parameters, a loss or a gradient have left the range of numbers."""


class NotStronglyConvexError(ValueError):
    """The energy has no positive strong-convexity constant, so no tolerance can be certified."""

    def __init__(self, mu: float) -> None:
        super().__init__(
            f"the energy is not provably strongly convex (mu = {mu:.3g}): raise problem.ridge above "
            f"{max(0.0, -mu):.3g}, use a convex regularizer, or let isgd go on without certificates "
            f"(lower.uncertified = true; in Python, certified=False)"
        )


class NotProvableError(ValueError):
    """A proven bound was asked for of something that has none."""


class CurvatureError(ValueError):
    """A claimed bound mu or L on the curvature of the energy is contradicted by a curvature that was seen."""

    def __init__(self, bound: str, claimed: float, seen: float) -> None:
        super().__init__(
            f"the curvature of the energy was claimed to be {bound} = {claimed:.6g} everywhere, but "
            f"<v, H v> / <v, v> = {seen:.6g} was seen: curvature() of the regularizer, or the bounds of the operator, "
            f"are no bounds, and nothing that is certified with them holds"
        )


def rounded_up(bound: float, digits: int = 3) -> str:
    """Write an upper bound with so many digits: what is written is a bound, too."""
    return f"{float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(bound))):.{digits}g}"


def norm(x: Tensor) -> Tensor:  # (B, ...) -> (B,)
    """Return the l2 norm of each image."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def dot(a: Tensor, b: Tensor) -> Tensor:  # (B, ...), (B, ...) -> (B,)
    """Return the inner product of each pair of images."""
    return (a * b).flatten(1).sum(1)


def per_image(scalars: Tensor) -> Tensor:  # (B,) -> (B, 1, 1, 1)
    """Return a view of one number per image that multiplies images."""
    return scalars[:, None, None, None]


def check_every(device: torch.device) -> int:
    """Return the number of iterations between looks at which images are done: off the CPU, a look waits."""
    return 1 if device.type == "cpu" else 8
