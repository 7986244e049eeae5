"""The local Lipschitz constant of the gradient, which sets the steps of gradient methods.

    L_k = max(0.98 L_{k-1}, ||dg||^2 / <dx, dg>),    mu <= L_k <= L,

the largest quotient along the path, slowly forgotten, never above the proven bound. (A test on function values, the
usual backtracking, stalls in float32.)
"""

import torch
from torch import Tensor

from app.lower.energy import Energy

START = 0.1  # first local L, as a share of the proven bound
FORGET = 0.98  # per gradient; regions of high curvature are left behind as x converges


def begin(energy: Energy, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
    """Return the first local L of each image."""
    mu, largest = energy.bounds
    return x.new_full((len(x),), max(mu, START * largest))


def update(energy: Energy, local: Tensor, along: Tensor, squared: Tensor) -> Tensor:  # (B,) each -> (B,)
    """Return the next local L, along = <dx, dg> and squared = ||dg||^2. Rounding may leave no positive curvature."""
    return torch.maximum(FORGET * local, torch.where(along > 0, squared / along, 0)).clamp(*energy.bounds)
