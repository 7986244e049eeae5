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

from dataclasses import dataclass

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.iterate import MAX_ITERATIONS, Scheme, choose, iterate, patience_of
from app.lower.preconditioner import Preconditioner, preconditioner
from app.lower.solution import LowerSolution, PerImage, dot, norm, per_image

MEMORY = 5  # pairs; 10 and 20 need as many gradients here and cost more
ACCEPT = 0.8  # 1 - 2 delta of the approximate Wolfe conditions with delta = 0.1
STRICT = 15  # gradients; without rounding a halving takes about five
REFRESH = 3  # once, when the error bound has fallen by this factor, P is computed again and the pairs are dropped
PATIENCE = 5  # gives up after this many sqrt(L / mu) + 1 gradients without halving the smallest one


@dataclass
class _Pairs(PerImage):
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


@dataclass(kw_only=True)
class _State(PerImage):
    x: Tensor
    g: Tensor  # grad h(x)
    p: Tensor  # P^-1 g
    d: Tensor
    t: Tensor
    slope: Tensor  # <g, d> < 0
    pairs: _Pairs
    slot: int  # the pair to replace next
    inverse: Preconditioner | None  # P^-1; None where nothing is known of the curvature, and P = 1

    @property
    def point(self) -> Tensor:
        return torch.addcmul(self.x, per_image(self.t), self.d)


def solve(
    energy: Energy, start: Tensor, accuracy: float, max_iterations: int = MAX_ITERATIONS
) -> LowerSolution:  # (B, C, H, W) -> x (B, C, H, W)
    """Return argmin h for each image to a certified accuracy. Raises what `iterate` raises."""
    return iterate(SCHEME, energy, start, accuracy, max_iterations)


def _begin(energy: Energy, x: Tensor, g: Tensor) -> _State:
    inverse = preconditioner(energy, x)
    p = g if inverse is None else inverse(g)
    slope = -dot(g, p)
    return _State(
        x=x, g=g, p=p, d=-p, t=torch.ones_like(slope), slope=slope, pairs=_Pairs.none(x), slot=1, inverse=inverse
    )


def _step(energy: Energy, state: _State, trial: Tensor, g: Tensor, stalled: Tensor) -> tuple[_State, Tensor, Tensor]:
    """Step to the trial point, or shorten the step."""
    mu, largest = energy.bounds
    p = g if state.inverse is None else state.inverse(g)
    slope, squared = dot(g, state.d), dot(state.d, state.d)
    t, before = state.t, -state.slope
    safe, rise = before / (largest * squared), before + slope  # rise = <d, y>
    # Without convexity only the safe step is sure never to climb.
    strict = 0.0 if energy.assumed is None else -torch.inf
    accept = (slope <= (ACCEPT * before).masked_fill_(stalled > STRICT, strict)) | (t <= safe)

    usable = accept & (rise > 0.5 * mu * t * squared)  # rounding may break <s, y> >= mu ||s||^2
    weight = (t / rise).sqrt_().masked_fill_(~usable, 0)
    by_t = per_image(weight / t)
    pairs = state.pairs
    pairs.replace(state.slot, (per_image(weight), state.d), (by_t, p - state.p), (g - state.g).mul_(by_t))
    d = pairs.direction(g, p)
    d, slope_at_d = _downhill(g, d)
    shorter = torch.maximum((t * before / rise).clamp(0.1 * t, 0.9 * t), safe)
    x, g, p, d, slope, t_next = choose(
        accept,
        (trial, g, p, d, slope_at_d, torch.ones_like(t)),
        lambda: (state.x, state.g, state.p, state.d, state.slope, shorter),
    )
    slot = (state.slot + 1) % MEMORY
    after = _State(x=x, g=g, p=p, d=d, t=t_next, slope=slope, pairs=pairs, slot=slot, inverse=state.inverse)
    return after, t * rise, t.square() * squared


def _downhill(g: Tensor, d: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W) each -> (B, C, H, W), (B,)
    """Return d and <g, d>, where rounding has turned d uphill those of -g."""
    slope = dot(g, d)
    return choose(slope < 0, (d, slope), lambda: (-g, -norm(g).square()))


def _renew(energy: Energy, state: _State, images: Tensor) -> None:
    """Begin again at x, where curvature has changed most since the start: after the first fast decrease."""
    inverse = preconditioner(energy.take(images), state.x[images])
    if inverse is None or state.inverse is None:
        return
    g = state.g[images]
    p = inverse(g)
    state.p[images], state.d[images], state.slope[images], state.t[images] = p, -p, -dot(g, p), 1
    state.inverse.put(images, inverse)
    state.pairs.forget(images)


def _overhead(state: _State) -> int:
    return int(state.inverse is not None)


SCHEME = Scheme(
    begin=_begin, step=_step, patience=patience_of(PATIENCE), renew=_renew, renew_after=REFRESH, overhead=_overhead
)
