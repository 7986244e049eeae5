"""Preconditioned conjugate gradients for H q = b, one scalar per image (Hestenes and Stiefel, 1952)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from app.lower.solution import PerImage, check_every, dot, norm, per_image


class SymmetricOperator(Protocol):
    """A symmetric positive definite H (or its inverse) on each image of a batch."""

    def __call__(self, v: Tensor) -> Tensor: ...  # (B, C, H, W) -> (B, C, H, W)
    def take(self, images: Tensor) -> SymmetricOperator: ...  # H of these images alone


@dataclass(frozen=True, kw_only=True)
class LinearSolution(PerImage):
    """An approximate solution q with ||H_b q_b - b_b|| = residual_b, for each image b of the batch.

    The quotients <p, H p> / <p, p> of all directions p that were met lie in [least, largest], which is empty where
    there was none: least = inf, largest = -inf.
    """

    q: Tensor  # (B, C, H, W)
    residual: Tensor  # (B,), computed from q, not by recurrence
    converged: Tensor  # (B,) bool: residual <= tolerance
    iterations: Tensor  # (B,) products with H
    least: Tensor  # (B,)
    largest: Tensor  # (B,)


@torch.no_grad()
def conjugate_gradient(
    hessian: SymmetricOperator, b: Tensor, tolerance: Tensor, start: Tensor | None = None,
    inverse: SymmetricOperator | None = None, max_iterations: int = 2_000,
) -> LinearSolution:  # b (B, C, H, W), tolerance (B,) -> q (B, C, H, W)  # fmt: skip
    """Solve until ||H q - b|| <= tolerance per image. `inverse` approximates H^-1.

    The recurrence of the residual drifts from the residual in floating point: where it ends, the residual is computed,
    and what is left of it is solved for in another round. An image stops unconverged where a round does not halve its
    residual, or where a direction shows no positive curvature. Without a start, b = 0 gives q = 0
    and no product.
    """
    q = torch.zeros_like(b) if start is None else start.clone()
    iterations = torch.full((len(b),), int(start is not None), device=b.device)
    r = b if start is None else b - hessian(q)
    residual = norm(r)
    least, largest = torch.full_like(residual, torch.inf), torch.full_like(residual, -torch.inf)
    todo = (residual > tolerance).nonzero()[:, 0]
    r = r[todo]
    while len(todo):
        part, left = hessian.take(todo), max_iterations - int(iterations[todo].max())
        p = None if inverse is None else inverse.take(todo)
        dq, products, low, high = _round(part, r, tolerance[todo], p, left)
        q[todo] += dq
        iterations[todo] += products + 1
        least[todo], largest[todo] = least[todo].minimum(low), largest[todo].maximum(high)
        r = b[todo] - part(q[todo])
        before, after = residual[todo], norm(r)
        residual[todo] = after
        again = (after > tolerance[todo]) & (after <= before / 2) & (iterations[todo] < max_iterations)
        todo, r = todo[again], r[again]
    return LinearSolution(
        q=q, residual=residual, converged=residual <= tolerance, iterations=iterations, least=least, largest=largest
    )


def _round(
    hessian: SymmetricOperator, r: Tensor, tolerance: Tensor, inverse: SymmetricOperator | None, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return q with H q = r as far as the recurrence knows, and per image the products it took, and the smallest and
    the largest quotient <p, H p> / <p, p>."""
    identity: Callable[[Tensor], Tensor] = lambda v: v  # noqa: E731
    low = r.new_full((len(r),), torch.inf)
    found = torch.zeros_like(r), torch.zeros(len(r), dtype=torch.long, device=r.device), low, -low
    images = torch.arange(len(r), device=r.device)
    q, count, low, high = found
    z = (inverse or identity)(r)
    p, rz, active = z, dot(r, z), torch.ones_like(count, dtype=torch.bool)
    for k in range(1, max_iterations + 1):
        hp = hessian(p)
        curvature = dot(p, hp)
        quotient = _quotient(curvature, p)
        low, high = torch.fmin(low, quotient), torch.fmax(high, quotient)
        count = count + active
        active = active & (curvature > 0)
        alpha = per_image((rz / curvature).masked_fill_(~active, 0))
        q, r = torch.addcmul(q, alpha, p), torch.addcmul(r, alpha, hp, value=-1)
        z = (inverse or identity)(r)
        active = active & (norm(r) > tolerance)
        before, rz = rz, dot(r, z)
        p = torch.addcmul(z, per_image((rz / before).masked_fill_(~active, 0)), p)
        if k % check_every(r.device):
            continue
        left = int(active.sum())
        if left == 0:
            break
        if 2 * left <= len(active):  # a new H for fewer images costs about half a product
            _put(found, images, (q, count, low, high))
            kept = active.nonzero()[:, 0]
            hessian, inverse = hessian.take(kept), inverse.take(kept) if inverse else None
            images, q, r, p, rz, count, active = (t[kept] for t in (images, q, r, p, rz, count, active))
            tolerance, low, high = tolerance[kept], low[kept], high[kept]
    _put(found, images, (q, count, low, high))
    return found


def _put(found: tuple[Tensor, ...], images: Tensor, part: tuple[Tensor, ...]) -> None:
    for whole, tensor in zip(found, part, strict=True):
        whole[images] = tensor


def _quotient(curvature: Tensor, p: Tensor) -> Tensor:  # (B,), (B, C, H, W) -> (B,)
    """Return <p, H p> / <p, p>, no number where <p, p> is so small that it has lost digits."""
    squared, type_ = norm(p).square(), torch.finfo(p.dtype)
    return (curvature / squared).masked_fill_(squared <= type_.tiny / type_.eps, torch.nan)
