"""Gradient descent with Polyak steps (polyak.py, arXiv 2409.19791) for strongly convex energies, per image.

    SHORT steps  x <- x - g / L,   then one  x <- x - (h(x) - h~) / ||g||^2 g,   to a certified accuracy.

No value of h is evaluated: near the minimiser their differences are rounding (in float32, where h - h* < 1e-7 h). The
changes of h are read off the gradients at both ends,  h(x - t g) - h(x) = -t/2 <g + g', g>  up to third derivatives,
and keep their digits as long as the gradients do. Strong convexity bounds the gap, h(x) - h* <= ||g||^2 / (2 mu), and
with it the long step, by 1 / (2 mu). ||g|| / mu certifies x however it was found.

L is local, as in agd.py: the largest ||dg||^2 / <dx, dg> seen along the path, slowly forgotten. While the gradient has
not halved for long, only steps with <g', g> >= 0 are taken, which by convexity never climb.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from app.lower import polyak
from app.lower.energy import Energy
from app.lower.polyak import Epoch
from app.lower.solution import LowerSolution, NotStronglyConvexError, check_every, dot, norm, per_image

SHORT = 4  # K: of 2, 4, 8, ... the fewest gradients for tv, and nearly for foe
START = 0.1  # first local L, as a share of the proven bound
FORGET = 0.98  # per gradient
STRICT = 50  # gradients without halving after which no step may climb
PATIENCE = 3  # give up after this many L / mu gradients, and STRICT more, without halving the gradient


@dataclass
class _State:
    """The images still at work; every field has one entry per image."""

    index: Tensor  # their places in the batch
    x: Tensor
    g: Tensor
    epoch: Epoch
    local: Tensor
    best: Tensor
    bound: Tensor
    iterations: Tensor
    milestone: Tensor
    stalled: Tensor

    def take(self, images: Tensor) -> "_State":
        def part(value: Any) -> Any:
            return value[images] if isinstance(value, Tensor) else value.take(images)

        return _State(*(part(getattr(self, f.name)) for f in fields(self)))


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
    g = energy.gradient(start)
    best, bound = start.clone(), (norm(g) / mu).nan_to_num(torch.inf)
    iterations = torch.ones(len(start), dtype=torch.long, device=start.device)
    todo = ((bound > accuracy) & bound.isfinite()).nonzero()[:, 0]
    gap, local = dot(g, g) / (2 * mu), torch.full_like(bound, max(mu, START * largest))
    state = _State(
        torch.arange(len(start), device=start.device), start, g, polyak.begin(gap), local,
        best, bound, iterations, bound, torch.zeros_like(bound),
    ).take(todo)  # fmt: skip
    energy = energy.take(todo) if len(todo) else energy
    for k in range(2, max_iterations + 1):
        if len(state.index) == 0:
            break
        _advance(state, energy, accuracy)
        if k % check_every(start.device) == 0 or k == max_iterations:
            impatient = state.stalled > STRICT + PATIENCE * state.local / mu
            open_ = (state.bound > accuracy) & ~impatient & state.g.flatten(1).isfinite().all(1) & (k < max_iterations)
            kept = open_.nonzero()[:, 0]  # waits for the device
            if len(kept) < len(open_):
                gone = (~open_).nonzero()[:, 0]
                places = state.index[gone]
                best[places], bound[places] = state.best[gone], state.bound[gone]
                iterations[places] = state.iterations[gone]
                state = state.take(kept)
                energy = energy.take(kept) if len(kept) else energy
    return LowerSolution(best, bound, bound <= accuracy, iterations)


def _advance(state: _State, energy: Energy, accuracy: float) -> None:
    """One gradient: try a step, certify its end, and keep or leave it."""
    mu, largest = energy.bounds
    squared, long = dot(state.g, state.g), polyak.is_long(state.epoch, SHORT)
    short = 1 / state.local
    t = torch.where(long, polyak.long_step(state.epoch, squared).clamp(max=1 / (2 * mu)).maximum(short), short)
    x = state.x - per_image(t) * state.g
    g = energy.gradient(x)
    _certify(state, x, norm(g) / mu, accuracy)

    slope = dot(g, state.g)
    accepted = slope >= torch.where(state.stalled > STRICT, 0, -squared)
    state.epoch = polyak.settle(state.epoch, long, -t / 2 * (squared + slope), accepted)
    change, along = g - state.g, t * (squared - slope)  # along = <dx, dg>
    seen = torch.where(along > 0, dot(change, change) / along, 0)
    state.local = torch.maximum(FORGET * state.local, seen).clamp(mu, largest)
    state.x = torch.where(per_image(accepted), x, state.x)
    state.g = torch.where(per_image(accepted), g, state.g)


def _certify(state: _State, point: Tensor, error: Tensor, accuracy: float) -> None:
    """Remember the best point. What is accurate already stays as it is, however late it is looked at."""
    open_ = state.bound > accuracy
    improved = open_ & (error < state.bound)
    state.best = torch.where(per_image(improved), point, state.best)
    state.bound = torch.where(improved, error, state.bound)
    state.iterations = state.iterations + open_
    halved = error <= state.milestone / 2
    state.milestone = torch.where(halved, error, state.milestone)
    state.stalled = torch.where(halved, 0, state.stalled + 1)
