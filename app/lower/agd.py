"""Accelerated gradient for strongly convex energies, per image, to a certified accuracy.

Nesterov's scheme with constant momentum (Introductory Lectures on Convex Optimization, 2004, scheme 2.2.22):

    x_{k+1} = z_k - grad h(z_k) / L,    z_{k+1} = x_{k+1} + beta (x_{k+1} - x_k),    beta = (1 - sqrt q) / (1 + sqrt q),

q = mu / L, with two adaptations that leave the certificate untouched, because ||grad h(z)|| / mu bounds the distance to
the minimiser however z was found:

- L is local: the largest ||dg||^2 / <dz, dg> seen along the path, slowly forgotten, never above the proven bound. (A
  test on function values, the usual backtracking, stalls in float32.)
- the momentum restarts where it points uphill (O'Donoghue and Candes, FoCM 2015): beta <= (t - 1) / (t + 2), t counted
  from the last restart.
"""

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.solution import LowerSolution, NotStronglyConvexError, check_every, dot, norm, per_image

START = 0.1  # first local L, as a share of the proven bound
FORGET = 0.98  # per iteration; regions of high curvature are left behind as x converges
PATIENCE = 20  # give up after this many sqrt(L / mu) + 1 iterations without halving the gradient


@torch.no_grad()
def solve(
    energy: Energy, start: Tensor, accuracy: float, max_iterations: int = 20_000
) -> LowerSolution:  # (B, C, H, W) -> x (B, C, H, W)
    """argmin_x h(x) for each image, until ||grad h|| / mu <= accuracy (an l2 distance on the scale of x).

    The returned point is the one whose gradient was certified. An image that rounding keeps from its accuracy (float32
    certifies down to about 4e-7 ||x|| / mu) stops unconverged, with the bound it reached. Converged images leave the
    batch. Raises NotStronglyConvexError if mu <= 0.
    """
    mu, largest = energy.bounds
    if mu <= 0:
        raise NotStronglyConvexError(mu)
    patience = PATIENCE * (1 + int((largest / mu) ** 0.5))

    best = start.clone()
    batch, device = len(start), start.device
    bound = start.new_full((batch,), torch.inf)
    iterations = torch.zeros(batch, dtype=torch.long, device=device)

    active = torch.arange(batch, device=device)
    x, z, x_best, x_bound, count = start, start, start, bound, iterations
    z_before, g_before = start, torch.zeros_like(start)
    local = start.new_full((batch,), max(mu, START * largest))
    since_restart = start.new_zeros(batch)
    milestone = start.new_full((batch,), torch.inf)
    stalled = start.new_zeros(batch)

    for k in range(1, max_iterations + 1):
        g = energy.gradient(z)
        error = norm(g) / mu
        open_ = x_bound > accuracy  # what is accurate already stays as it is, however late it is looked at
        improved = open_ & (error < x_bound)
        x_best = torch.where(per_image(improved), z, x_best)
        x_bound = torch.where(improved, error, x_bound)
        count = count + open_
        halved = error <= milestone / 2
        milestone = torch.where(halved, error, milestone)
        stalled = torch.where(halved, 0, stalled + 1)

        if (k - 1) % check_every(device) == 0 or k == max_iterations:
            keep = (x_bound > accuracy) & (stalled < patience) & error.isfinite() & (k < max_iterations)
            kept = keep.nonzero()[:, 0]  # waits for the device
            if len(kept) < len(keep):
                gone = (~keep).nonzero()[:, 0]
                best[active[gone]], bound[active[gone]] = x_best[gone], x_bound[gone]
                iterations[active[gone]] = count[gone]
                if len(kept) == 0:
                    break
                energy, active = energy.take(kept), active[kept]
                x, z, g, z_before, g_before, x_best = (t[kept] for t in (x, z, g, z_before, g_before, x_best))
                local, since_restart, milestone, stalled = (t[kept] for t in (local, since_restart, milestone, stalled))
                x_bound, count = x_bound[kept], count[kept]

        if k > 1:
            local = torch.maximum(FORGET * local, _curvature(z - z_before, g - g_before).clamp(max=largest))
            local = local.clamp(min=mu)
        z_before, g_before = z, g
        x_next = z - g / per_image(local)
        step = x_next - x
        since_restart = torch.where(dot(g, step) > 0, 0, since_restart + 1)
        root = (mu / local).sqrt()
        beta = torch.minimum((1 - root) / (1 + root), (since_restart - 1).clamp(min=0) / (since_restart + 2))
        x, z = x_next, x_next + per_image(beta) * step

    return LowerSolution(best, bound, bound <= accuracy, iterations)


def _curvature(dz: Tensor, dg: Tensor) -> Tensor:  # (B, ...), (B, ...) -> (B,)
    """||dg||^2 / <dz, dg> <= L for convex h; 0 where rounding leaves no positive curvature."""
    along = dot(dz, dg)
    return torch.where(along > 0, dot(dg, dg) / along, 0)
