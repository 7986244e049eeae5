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
from app.lower.solution import LowerSolution
from app.upper.hypergradient import Learned
from app.upper.linear import LinearSolution


@torch.no_grad()
def error_bound(
    learned: Learned, energy: Energy, smoothness: float, lower: LowerSolution, linear: LinearSolution
) -> Tensor:  # (B,)
    """omega_b >= ||J_b^T q_b - J*_b^T q*_b|| for each image; their mean bounds the error of the batch's hypergradient.

    smoothness: L_g, the Lipschitz constant of the gradient of the loss. Infinite where the lower level has no bound.
    Exact arithmetic is assumed: rounding adds a relative 1e-6 in float32.
    """
    mu, _ = energy.bounds
    change = learned.sensitivity(lower.x, linear.q, lower.error_bound)
    adjoint = (linear.residual + change.product + smoothness * lower.error_bound) / mu
    return (change.jacobian * adjoint + change.jacobian_product).nan_to_num(torch.inf, torch.inf)
