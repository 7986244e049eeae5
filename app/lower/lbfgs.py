"""Limited-memory BFGS for strongly convex energies, per image and preconditioned, to a certified accuracy.

    x_{k+1} = x_k + t_k d_k,   d_k = -B_k grad h(x_k),

B_k from the last MEMORY pairs s = dx, y = dgrad and the preconditioner, scaled by <s, y> / <y, P^-1 y> (Nocedal and
Wright, Numerical Optimization, 2006, section 7.2; the two loops as two small triangular systems).

The line search asks for slopes only, because differences of values stall in float32. With slope(t) the inner product
<grad h(x + t d), d>, the step t = 1 is tried first and taken if slope(t) <= ACCEPT |slope(0)| (the upper half of the
approximate Wolfe conditions, Hager and Zhang, SIAM J. Optim. 2005). Else t moves to the zero of the secant, but not
below |slope(0)| / (L ||d||^2), where the proven L guarantees descent. While the gradient has not halved for STRICT
gradients, only slope(t) <= 0 is taken, which by convexity never climbs: the method converges from everywhere.
||grad h(x)|| / mu certifies x however it was found.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.preconditioner import Preconditioner, preconditioner
from app.lower.solution import LowerSolution, NotStronglyConvexError, check_every, dot, norm, per_image

MEMORY = 5  # pairs; 10 and 20 need as many gradients here and cost more
ACCEPT = 0.8  # 1 - 2 delta of the approximate Wolfe conditions with delta = 0.1
STRICT = 15  # gradients; without rounding a halving takes about five
REFRESH = 4  # once, when the gradient has fallen by this factor, the preconditioner is computed again
PATIENCE = 5  # give up after this many sqrt(L / mu) + 1 gradients without halving the gradient


@dataclass
class _Pairs:
    """The last pairs of each image, in a ring; `birth` is the number of the pair in a slot, -1 for none."""

    s: Tensor  # (B, MEMORY, N)
    y: Tensor  # (B, MEMORY, N)
    sy: Tensor  # (B, MEMORY, MEMORY), <s_i, y_j> for birth_i <= birth_j
    birth: Tensor  # (B, MEMORY)
    count: Tensor  # (B,)

    @staticmethod
    def none(x: Tensor) -> _Pairs:
        batch, n = len(x), x[0].numel()
        s, sy = x.new_zeros(batch, MEMORY, n), x.new_zeros(batch, MEMORY, MEMORY)
        birth = torch.full((batch, MEMORY), -1, device=x.device)
        return _Pairs(s, s.clone(), sy, birth, torch.zeros_like(birth[:, 0]))

    def take(self, images: Tensor) -> _Pairs:
        return _Pairs(*(getattr(self, f.name)[images] for f in fields(self)))

    def add(self, s: Tensor, y: Tensor, where: Tensor) -> None:
        """In place of the oldest pair, for the images where `where` (B,) holds."""
        images, slot = torch.arange(len(s), device=s.device), self.count % MEMORY
        products = _along(self.s, y)[:, :, 0]
        products[images, slot] = dot(s, y)
        new = (s.flatten(1), y.flatten(1), products, self.count)
        for ring, value in ((self.s, new[0]), (self.y, new[1]), (self.sy.mT, new[2]), (self.birth, new[3])):
            old = ring[images, slot]
            ring[images, slot] = _choose(where, value, old)
        self.count = self.count + where

    def apply(self, g: Tensor, inverse: Preconditioner, scale: Tensor) -> Tensor:
        """B g. With R_ij = <s_i, y_j> for i not younger than j:  R a = s^T g,  r = scale P^-1 (g - y a),
        R^T c = diag(R) a - y^T r,  B g = r + s c."""
        empty = torch.diag_embed((self.birth < 0).to(g.dtype))
        older = (self.birth.unsqueeze(2) <= self.birth.unsqueeze(1)) & (self.birth >= 0).unsqueeze(2)
        r_matrix = torch.where(older, self.sy, 0) + empty
        a = _solve(r_matrix, _along(self.s, g))
        r = per_image(scale) * inverse(g - torch.bmm(a.mT, self.y).view_as(g))
        diagonal = r_matrix.diagonal(dim1=1, dim2=2).unsqueeze(2)
        c = _solve(r_matrix.mT, diagonal * a - _along(self.y, r))
        return r + torch.bmm(c.mT, self.s).view_as(g)


def _along(vectors: Tensor, g: Tensor) -> Tensor:  # (B, M, N), (B, C, H, W) -> (B, M, 1)
    """Inner products; torch.bmm takes five times as long for so few rows."""
    return (vectors * g.flatten(1).unsqueeze(1)).sum(2, keepdim=True)


def _solve(matrix: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.solve_ex(matrix, b)[0]  # _ex: no look at the device


@dataclass
class _State:
    """The images still at work; every field has one entry per image."""

    index: Tensor  # their places in the batch
    x: Tensor
    g: Tensor
    d: Tensor
    t: Tensor
    slope: Tensor  # <g, d> < 0
    scale: Tensor
    pairs: _Pairs
    inverse: Preconditioner
    refresh_below: Tensor  # in units of ||g||; 0 once done
    best: Tensor
    bound: Tensor
    iterations: Tensor
    milestone: Tensor
    stalled: Tensor

    def take(self, images: Tensor) -> _State:
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
    batch. `iterations` counts gradients and preconditioners. Raises NotStronglyConvexError if mu <= 0.
    """
    mu, largest = energy.bounds
    if mu <= 0:
        raise NotStronglyConvexError(mu)
    patience = PATIENCE * (1 + int((largest / mu) ** 0.5))

    g = energy.gradient(start)
    best, bound = start.clone(), (norm(g) / mu).nan_to_num(torch.inf)
    iterations = torch.ones(len(start), dtype=torch.long, device=start.device)
    todo = ((bound > accuracy) & bound.isfinite()).nonzero()[:, 0]
    if len(todo) == 0:
        return LowerSolution(best, bound, bound <= accuracy, iterations)

    energy = energy.take(todo)
    state = _begin(energy, start[todo], g[todo], bound[todo], todo)
    for k in range(1, max_iterations + 1):
        keep = (state.bound > accuracy) & (state.stalled < patience) & (k < max_iterations)
        if (k - 1) % check_every(start.device) == 0 or k == max_iterations:
            gone, kept = (~keep).nonzero()[:, 0], keep.nonzero()[:, 0]
            if len(gone):
                left = state.take(gone)
                best[left.index], bound[left.index], iterations[left.index] = left.best, left.bound, left.iterations
                if len(kept) == 0:
                    break
                energy, state = energy.take(kept), state.take(kept)
            _refresh(state, energy)
        _advance(state, energy, accuracy)
    return LowerSolution(best, bound, bound <= accuracy, iterations)


def _begin(energy: Energy, x: Tensor, g: Tensor, bound: Tensor, index: Tensor) -> _State:
    inverse = preconditioner(energy, x)
    d = -inverse(g)
    ones, counts = torch.ones_like(bound), torch.full_like(index, 2)
    return _State(
        index, x, g, d, ones, dot(g, d), ones, _Pairs.none(x), inverse, norm(g) / REFRESH,
        x, bound, counts, bound, torch.zeros_like(bound),
    )  # fmt: skip


def _advance(state: _State, energy: Energy, accuracy: float) -> None:
    """One gradient: certify the trial point, then step to it or shorten the step."""
    mu, largest = energy.bounds
    trial = state.x + per_image(state.t) * state.d
    g = energy.gradient(trial)
    _certify(state, trial, norm(g) / mu, accuracy)

    slope, before = dot(g, state.d), -state.slope
    safe = before / (largest * dot(state.d, state.d))
    strict = 0.0 if energy.assumed is None else -torch.inf  # without convexity only the safe step never climbs
    limit = torch.where(state.stalled > STRICT, strict, ACCEPT * before)
    accept = (slope <= limit) | (state.t <= safe)
    secant = state.t * before / (before + slope)
    shorter = torch.maximum(secant.clamp(0.1 * state.t, 0.9 * state.t), safe)

    s, y = trial - state.x, g - state.g
    sy = dot(s, y)
    usable = accept & (sy > 0.5 * mu * dot(s, s))  # rounding may break <s, y> >= mu ||s||^2
    state.pairs.add(s, y, usable)
    state.scale = torch.where(usable, sy / dot(y, state.inverse(y)), state.scale)
    d = -state.pairs.apply(g, state.inverse, state.scale)
    d = _choose(dot(g, d) < 0, d, -g)

    state.slope = torch.where(accept, dot(g, d), state.slope)
    state.t = torch.where(accept, 1, shorter)
    state.x, state.g, state.d = (
        _choose(accept, new, old) for new, old in ((trial, state.x), (g, state.g), (d, state.d))
    )


def _choose(condition: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """torch.where per image; without touching pixels where all agree, as far as asking costs nothing."""
    if condition.device.type == "cpu" and bool(condition.all()):
        return new
    return torch.where(condition.view(-1, *[1] * (new.ndim - 1)), new, old)


def _certify(state: _State, point: Tensor, error: Tensor, accuracy: float) -> None:
    """Remember the best point. What is accurate already stays as it is, however late it is looked at."""
    open_ = state.bound > accuracy
    improved = open_ & (error < state.bound)
    state.best = _choose(improved, point, state.best)
    state.bound = torch.where(improved, error, state.bound)
    state.iterations = state.iterations + open_
    halved = error <= state.milestone / 2
    state.milestone = torch.where(halved, error, state.milestone)
    state.stalled = torch.where(halved, 0, state.stalled + 1)


def _refresh(state: _State, energy: Energy) -> None:
    """Where curvature has changed most since the start: once, after the first fast decrease."""
    due = (norm(state.g) < state.refresh_below).nonzero()[:, 0]
    if len(due):
        state.inverse = state.inverse.put(due, preconditioner(energy.take(due), state.x[due]))
        state.refresh_below[due] = 0
        state.iterations[due] += 1
