"""Conjugate gradients for H q = b, one scalar per image (Hestenes and Stiefel, 1952)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from app.lower.solution import dot, norm, per_image


@dataclass(frozen=True)
class LinearSolution:
    """q with ||H_b q_b - b_b|| = residual_b."""

    q: Tensor  # (B, C, H, W)
    residual: Tensor  # (B,), computed from q, not by recurrence
    converged: Tensor  # (B,) bool: residual <= tolerance
    iterations: Tensor  # (B,) products with H


@torch.no_grad()
def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: Tensor,
    start: Tensor | None = None,
    max_iterations: int = 2_000,
) -> LinearSolution:  # b (B, C, H, W), tolerance (B,) -> q (B, C, H, W)
    """Solve until ||H q - b|| <= tolerance per image; H symmetric positive definite on each image.

    An image whose direction shows no positive curvature (rounding, or an H that is not positive definite) stops there,
    unconverged unless its residual already is small enough. b = 0 gives q = 0 without a product.
    """
    if start is None:
        q, r = torch.zeros_like(b), b.clone()
    else:
        q, r = start.clone(), b - matvec(start)
    iterations = torch.full((len(b),), int(start is not None), device=b.device)
    broken = torch.zeros(len(b), dtype=torch.bool, device=b.device)
    p, rr = r, dot(r, r)
    exact = True  # r is b - H q itself, not its recurrence, which drifts away from it

    for _ in range(max_iterations):
        active = (rr.sqrt() > tolerance) & ~broken
        if not active.any():
            if exact:
                break
            r = b - matvec(q)
            iterations = iterations + (iterations > 0)
            p, rr, exact = r, dot(r, r), True
            continue
        hp = matvec(p)
        iterations, exact = iterations + active, False
        curvature = dot(p, hp)
        broken = broken | (active & (curvature <= 0))
        alpha = torch.where(active & ~broken, rr / curvature, 0)
        q = q + per_image(alpha) * p
        r = r - per_image(alpha) * hp
        before, rr = rr, dot(r, r)
        p = r + per_image(torch.where(active, rr / before, 0)) * p

    residual = norm(r if exact else b - matvec(q))
    return LinearSolution(q, residual, residual <= tolerance, iterations)
