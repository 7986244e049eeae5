"""An a-posteriori bound omega on the error of an inexact hypergradient.

With ||x - x*|| <= eps, ||H(x) q - grad loss(x)|| <= delta and q* solving the system at x*,

    H(x*) (q - q*) = (H(x) q - grad loss(x)) + (H(x*) - H(x)) q + (grad loss(x) - grad loss(x*))
    J(x)^T q - J(x*)^T q* = J(x*)^T (q - q*) + (J(x) - J(x*))^T q,

so that

    ||q - q*|| <= (delta + ||(H(x*) - H(x)) q|| + L_g eps) / mu
    omega = ||J(x*)|| ||q - q*|| + ||(J(x) - J(x*))^T q||,

all maximised over the ball of radius eps around x. (Theorem 2.1 of arXiv 2308.10098 bounds the two changes by Lipschitz
constants that hold everywhere; here they are those of the ball, at this q.)
"""

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.solution import LowerSolution, NotProvableError
from app.upper.hypergradient import Hypergradient, Learned
from app.upper.linear import LinearSolution
from app.upper.theta import length


@torch.no_grad()
def error_bound(
    learned: Learned, energy: Energy, smoothness: float, lower: LowerSolution, linear: LinearSolution
) -> Tensor:  # (B,)
    """Return omega_b >= ||J_b^T q_b - J*_b^T q*_b|| for each image. Their mean bounds the error of the hypergradient.

    smoothness: L_g, the Lipschitz constant of the gradient of the loss. omega is infinite where the lower level has no
    bound. Exact arithmetic is assumed: rounding adds a relative 1e-6 in float32. Raises NotProvableError where the
    sensitivity of what is learned is not known.
    """
    if not learned.has_sensitivity:
        raise NotProvableError(
            f"the error of a hypergradient is not provable for {type(learned).__name__}, whose sensitivity is not "
            f"known: let the error be estimated"
        )
    mu, _ = energy.bounds
    change = learned.sensitivity(lower.x, linear.q, lower.error_bound)
    adjoint = (linear.residual + change.product + smoothness * lower.error_bound) / mu
    return (change.jacobian * adjoint + change.jacobian_product).nan_to_num(torch.inf, torch.inf)


def estimated_error(coarse: Hypergradient, fine: Hypergradient) -> float:
    """Estimate the error of the finer of two: ||z(s) - z(r s)|| r / (1 - r), where s and r s are their mean
    inexactnesses, as if the error were proportional to the inexactness.

    It is no bound: for what is trained, omega is too far from sharp to steer by. Infinite where `fine` is not finer.
    """
    s, r_s = float(coarse.inexactness.mean()), float(fine.inexactness.mean())
    if r_s == 0:
        return 0.0
    change = length(tuple(a - b for a, b in zip(coarse.gradient, fine.gradient, strict=True)))
    return change * r_s / (s - r_s) if r_s < s else float("inf")


MARGIN = 4.0  # over the accuracy at which floating point ended a solve
