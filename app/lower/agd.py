"""Accelerated gradient for strongly convex energies, per image, to a certified accuracy.

Nesterov's scheme with constant momentum (Introductory Lectures on Convex Optimization, 2004, scheme 2.2.22):

    x_{k+1} = z_k - grad h(z_k) / L,    z_{k+1} = x_{k+1} + beta (x_{k+1} - x_k),    beta = (1 - sqrt q) / (1 + sqrt q),

q = mu / L, with two adaptations that leave the certificate untouched, because ||grad h(z)|| / mu bounds the distance to
the minimiser however z was found:

- L is local (local_curvature.py);
- the momentum restarts where it points uphill (O'Donoghue and Candes, FoCM 2015): beta <= (t - 1) / (t + 2), t counted
  from the last restart.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.lower import local_curvature
from app.lower.energy import Energy
from app.lower.iterate import MAX_ITERATIONS, Scheme, iterate, patience_of
from app.lower.solution import LowerSolution, PerImage, dot, per_image

PATIENCE = 20  # gives up after this many sqrt(L / mu) + 1 gradients without halving the smallest one


@dataclass(frozen=True, kw_only=True)
class _State(PerImage):
    x: Tensor
    point: Tensor  # the next z
    z: Tensor  # the last one
    g: Tensor  # grad h(z)
    local: Tensor
    since_restart: Tensor


def solve(
    energy: Energy, start: Tensor, accuracy: float, max_iterations: int = MAX_ITERATIONS
) -> LowerSolution:  # (B, C, H, W) -> x (B, C, H, W)
    """Return argmin h for each image to a certified accuracy. Raises what `iterate` raises."""
    return iterate(SCHEME, energy, start, accuracy, max_iterations)


def _begin(energy: Energy, x: Tensor, g: Tensor) -> _State:
    return _move(energy, x, x, g, local_curvature.begin(energy, x), x.new_zeros(len(x)))


def _step(energy: Energy, state: _State, z: Tensor, g: Tensor, stalled: Tensor) -> tuple[_State, Tensor, Tensor]:
    dz, dg = z - state.z, g - state.g
    along = dot(dz, dg)
    local = local_curvature.update(energy, state.local, along, dot(dg, dg))
    return _move(energy, state.x, z, g, local, state.since_restart), along, dot(dz, dz)


def _move(energy: Energy, x: Tensor, z: Tensor, g: Tensor, local: Tensor, since_restart: Tensor) -> _State:
    mu, _ = energy.bounds
    x_next = z - g / per_image(local)
    step = x_next - x
    since = torch.where(dot(g, step) > 0, 0, since_restart + 1)
    root = (mu / local).sqrt()
    beta = torch.minimum((1 - root) / (1 + root), (since - 1).clamp(min=0) / (since + 2))
    return _State(x=x_next, point=x_next + per_image(beta) * step, z=z, g=g, local=local, since_restart=since)


SCHEME = Scheme(begin=_begin, step=_step, patience=patience_of(PATIENCE))
