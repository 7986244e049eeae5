"""Limited-memory BFGS for strongly convex energies, per image and preconditioned, to a certified accuracy.

    x_{k+1} = x_k + t_k d_k,   d_k = -B_k grad h(x_k),

B_k from the last MEMORY pairs s = dx, y = dgrad and the preconditioner, scaled by <s, y> / <y, P^-1 y> (Nocedal and
Wright, Numerical Optimization, 2006, section 7.2; the two loops as two small triangular systems). P^-1 y is the change
of P^-1 g, so an iteration takes one gradient, one P^-1, and three passes over the pairs: with y, with g, and for d.

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
REFRESH = 3  # once, when the error bound has fallen by this factor, P is computed again and the pairs are dropped
PATIENCE = 5  # give up after this many sqrt(L / mu) + 1 gradients without halving the gradient


@dataclass
class _Pairs:
    """The last pairs of each image, scaled to <s, y> = 1, in a ring. Where an image has none, s = y = 0."""

    basis: Tensor  # (B, 2 MEMORY + 1, C, H, W): s_i, then z_i = P^-1 y_i, then P^-1 g
    inverse: Tensor  # (B, MEMORY, MEMORY): R^-1, R_ij = <s_i, y_j> for i older than j, 1 on the diagonal
    zy: Tensor  # (B, MEMORY, MEMORY): <z_i, y_j>
    scale: Tensor  # (B, 1, 1): 1 / <y, P^-1 y> of the last pair

    @staticmethod
    def none(x: Tensor) -> _Pairs:
        eye = torch.eye(MEMORY, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
        basis = x.new_zeros(len(x), 2 * MEMORY + 1, *x.shape[1:])
        return _Pairs(basis, eye, torch.zeros_like(eye), x.new_ones(len(x), 1, 1))

    def take(self, images: Tensor) -> _Pairs:
        return _Pairs(*(getattr(self, f.name)[images] for f in fields(self)))

    def forget(self, images: Tensor) -> None:
        self.basis[images], self.zy[images], self.scale[images] = 0, 0, 1
        self.inverse[images] = torch.eye(MEMORY, dtype=self.basis.dtype, device=self.basis.device)

    def replace(self, slot: int, s: tuple[Tensor, Tensor], z: tuple[Tensor, Tensor], y: Tensor) -> None:
        """(s, y, z) in place of the oldest pair, s and z as a factor and an image: R^-1 loses a row and a column, and
        gains the column -R^-1 S^T y, with 1 on the diagonal."""
        shape = y.shape
        torch.mul(*s, out=self.basis[:, slot].view(shape))
        torch.mul(*z, out=self.basis[:, MEMORY + slot].view(shape))
        along = self._along(y)
        self.zy[:, slot] = self.zy[:, :, slot] = along[:, 0, MEMORY:-1]
        yz = along[:, :, MEMORY + slot, None]
        self.scale = torch.where(yz > 0, 1 / yz, self.scale)
        self.inverse[:, slot] = 0
        self.inverse[:, :, slot] = 0
        self.inverse[:, :, slot] = torch.bmm(along[:, :, :MEMORY], self.inverse.mT)[:, 0].neg_()
        self.inverse[:, slot, slot] = 1

    def direction(self, g: Tensor, p: Tensor) -> Tensor:
        """-B g, p = P^-1 g:  R a = -S^T g,  R^T c = -a - scale (Z^T g + Z^T Y a),  B g = scale (p + Z a) + S c."""
        self.basis[:, -1] = p
        along = self._along(g)
        a = torch.bmm(along[:, :, :MEMORY], self.inverse.mT).neg_()
        change = torch.baddbmm(along[:, :, MEMORY:-1], a, self.zy)
        c = torch.bmm(torch.addcmul(a, self.scale, change), self.inverse).neg_()
        coefficients = torch.cat((c, self.scale * a, self.scale), 2)
        return torch.bmm(coefficients, self.basis.flatten(2)).neg_().view_as(g)

    def _along(self, v: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 1, 2 MEMORY + 1)
        """Inner products with the basis."""
        return torch.bmm(v.flatten(1).unsqueeze(1), self.basis.flatten(2).mT)


@dataclass
class _State:
    """The images still at work; every field has one entry per image."""

    index: Tensor  # their places in the batch
    x: Tensor
    g: Tensor
    p: Tensor  # P^-1 g
    d: Tensor
    t: Tensor
    slope: Tensor  # <g, d> < 0
    pairs: _Pairs
    inverse: Preconditioner
    refresh_below: Tensor  # a bound; 0 once done
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
        if (k - 1) % check_every(start.device) == 0 or k == max_iterations:
            keep = (state.bound > accuracy) & (state.stalled < patience) & (k < max_iterations)
            flags = torch.stack((keep, state.bound < state.refresh_below)).tolist()  # the only wait for the device
            kept, gone = _where(flags[0]), _where([not f for f in flags[0]])
            if gone:
                for result, found in ((best, state.best), (bound, state.bound), (iterations, state.iterations)):
                    result[state.index[gone]] = found[gone]
                if not kept:
                    break
                images = torch.tensor(kept, device=start.device)
                energy, state = energy.take(images), state.take(images)
            due = _where([flags[1][i] for i in kept])
            if due:
                _refresh(state, energy, torch.tensor(due, device=start.device))
        _advance(state, energy, accuracy, k % MEMORY)
    return LowerSolution(best, bound, bound <= accuracy, iterations)


def _begin(energy: Energy, x: Tensor, g: Tensor, bound: Tensor, index: Tensor) -> _State:
    inverse = preconditioner(energy, x)
    p = inverse(g)
    ones, counts = torch.ones_like(bound), torch.full_like(index, 2)
    return _State(
        index, x, g, p, -p, ones, -dot(g, p), _Pairs.none(x), inverse, bound / REFRESH,
        x, bound, counts, bound, torch.zeros_like(bound),
    )  # fmt: skip


def _advance(state: _State, energy: Energy, accuracy: float, slot: int) -> None:
    """One gradient: certify the trial point, then step to it or shorten the step."""
    trial = torch.addcmul(state.x, per_image(state.t), state.d)
    g = energy.gradient(trial)
    _update(state, trial, g, state.inverse(g), energy, accuracy, slot)


def _update(
    state: _State, trial: Tensor, g: Tensor, p: Tensor, energy: Energy, accuracy: float, slot: int
) -> None:  # trial, g, p (B, C, H, W)
    """What follows from the gradient g of the trial point and p = P^-1 g."""
    mu, largest = energy.bounds
    size, slope, squared = norm(g), dot(g, state.d), dot(state.d, state.d)
    _certify(state, trial, size / mu, accuracy)

    t, before = state.t, -state.slope
    safe, rise = before / (largest * squared), before + slope  # rise = <d, y>
    # Without convexity only the safe step is sure never to climb.
    strict = 0.0 if energy.assumed is None else -torch.inf
    accept = (slope <= (ACCEPT * before).masked_fill_(state.stalled > STRICT, strict)) | (t <= safe)

    usable = accept & (rise > 0.5 * mu * t * squared)  # rounding may break <s, y> >= mu ||s||^2
    weight = (t / rise).sqrt_().masked_fill_(~usable, 0)
    by_t = per_image(weight / t)
    state.pairs.replace(slot, (per_image(weight), state.d), (by_t, p - state.p), (g - state.g).mul_(by_t))
    d = state.pairs.direction(g, p)
    slope_at_d = dot(g, d)
    down = slope_at_d < 0
    if not _unanimous(down):
        d, slope_at_d = _choose(down, (d, slope_at_d), (-g, -size.square()))
    new = trial, g, p, d, slope_at_d, torch.ones_like(t)
    if not _unanimous(accept):
        shorter = torch.maximum((t * before / rise).clamp(0.1 * t, 0.9 * t), safe)
        new = _choose(accept, new, (state.x, state.g, state.p, state.d, state.slope, shorter))
    state.x, state.g, state.p, state.d, state.slope, state.t = new


def _unanimous(condition: Tensor) -> bool:
    """Whether it holds for every image, as far as asking costs nothing: then no pixel need be touched."""
    return condition.device.type == "cpu" and bool(condition.all())


def _choose(condition: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """torch.where per image."""
    return tuple(torch.where(condition.view(-1, *[1] * (n.ndim - 1)), n, o) for n, o in zip(new, old, strict=True))


def _certify(state: _State, point: Tensor, error: Tensor, accuracy: float) -> None:
    """Remember the best point. What is accurate already stays as it is, however late it is looked at."""
    open_ = state.bound > accuracy
    state.iterations = state.iterations + open_
    improved = open_ & (error < state.bound)
    new = point, error
    state.best, state.bound = new if _unanimous(improved) else _choose(improved, new, (state.best, state.bound))
    halved = error <= state.milestone / 2
    state.milestone = torch.where(halved, error, state.milestone)
    state.stalled = (state.stalled + 1).masked_fill_(halved, 0)


def _refresh(state: _State, energy: Energy, due: Tensor) -> None:
    """Where curvature has changed most since the start: once, after the first fast decrease, begin again at x."""
    inverse, g = preconditioner(energy.take(due), state.x[due]), state.g[due]
    p = inverse(g)
    state.p[due], state.d[due], state.slope[due], state.t[due] = p, -p, -dot(g, p), 1
    state.inverse = state.inverse.put(due, inverse)
    state.pairs.forget(due)
    state.refresh_below[due] = 0
    state.iterations[due] += 1


def _where(flags: list[bool]) -> list[int]:
    return [i for i, flag in enumerate(flags) if flag]
