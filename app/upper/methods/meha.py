"""MEHA, the Moreau envelope based Hessian-free algorithm (Liu, Liu, Yao, Zeng, Zhang: arXiv 2405.09927, Algorithm 1).

The lower level is replaced by h(theta, u) <= v(theta, u) with the Moreau envelope of h,

    v(theta, u) = min over w of  h(theta, w) + ||w - u||^2 / (2 gamma),

and this constraint by a penalty: minimise F / c_k + h - v over theta and u, c_k = c (k + 1)^p, p < 1/2, by the lines of
moreau.py (the paper's x, y, theta are our theta, u, w). No Hessian in them, no linear system, and h need not be convex.
Nothing is certified, and u is not a reconstruction: F / c_k draws it towards the clean image. A minimiser for fixed c
is one of the bilevel problem up to O(1 / c).

Here F and h are means over images, each with its own u and w; the factor 1 / N of their steps is in eta and beta. The
images that a mini-batch leaves out wait.

The condition of h is hundreds to thousands, and then u and w lag behind theta by as many steps. So P is the
preconditioner of the lower level, at the present u and theta; it brings the condition below a hundred. One power
iteration at every step estimates K, the largest eigenvalue of P^-1 d2(h + F / c)/du2. In that metric

    eta = beta = 1 / (K + 1 / gamma).

They are equal because u and w then lag alike: u - w, which c_k multiplies, does not see that theta has moved.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from app.lower import lbfgs
from app.lower.energy import Energy, Solver
from app.lower.preconditioner import preconditioner
from app.lower.stationary import certified_or_stationary
from app.upper.descent import Descent, DescentState, longest_descent
from app.upper.iteration import Iteration
from app.upper.method import Batch, Step, Stochastic
from app.upper.methods.moreau import Linear, Sizes, Slopes, identity, iterate, lower_step, proven_sizes, proximal_step
from app.upper.state import PerImage
from app.upper.theta import Theta

SETTLE = 10  # iterations of u, w and K alone at the first visit of an image
GAMMA = 4.0  # in the metric of P, where curvatures are about 1


@dataclass
class MehaState:
    """u, w and the power iteration's v of each image, eps_0 and the state of the descent."""

    u: PerImage
    w: PerImage
    v: PerImage
    eps_0: float | None = None
    descent: DescentState = field(default_factory=DescentState)


@dataclass(frozen=True, kw_only=True)
class Meha(Stochastic):
    """One step of u, w and theta each, on a penalty that needs no hypergradient."""

    # For the first u = w of an image, and for the automatic alpha_0.
    solve: Solver = field(default_factory=lambda: certified_or_stationary(lbfgs.solve))
    descent: Descent = field(default_factory=Descent)  # alpha_k
    c: float = 10.0
    p: float = 0.0
    gamma: float = 0.0  # 0: GAMMA with the preconditioner, else from proven bounds; eta and beta: found
    eta: float = 0.0
    beta: float = 0.0
    preconditioned: bool = True

    needs_finite_sum: ClassVar[bool] = True
    needs_convexity: ClassVar[bool] = False

    def begin(self, finite_sum: bool) -> MehaState:
        return MehaState(PerImage(finite_sum), PerImage(finite_sum), PerImage(finite_sum))

    def step(self, k: int, batch: Batch, state: MehaState) -> Step:
        here = Iteration.begin(k, batch)
        slopes = _slopes(batch, here.energy)
        u, w, sizes = self._start(here, slopes, state)
        x, loss, alpha = u, batch.loss.value(u), 0.0
        trial = here.tight_loss(self.solve, x, here.first_accuracy(state))

        def move(d: Theta) -> Slopes:
            nonlocal alpha
            here.require_finite(loss, *d)
            z = tuple(sizes.c * g for g in d)  # estimates the hypergradient
            alpha = self.descent.step(
                here, z, state.descent, partial(longest_descent, here.theta, z, trial), share=2 / sizes.c
            )
            return _slopes(batch, batch.energy())

        with torch.no_grad():
            u, w = iterate(slopes, u, w, sizes, move)
        state.u.remember(batch.images, u)
        state.w.remember(batch.images, w)
        here.cost.computations += 2 * len(x)  # gradients of h by images; no method counts those by theta
        never = torch.full_like(loss, torch.inf)
        return here.report_truncated(x, loss, never, alpha, (2, int(self.preconditioned)))

    @torch.no_grad()
    def _start(self, here: Iteration, slopes: Slopes, state: MehaState) -> tuple[Tensor, Tensor, Sizes]:
        """Return the last (u, w) of the images, and the step sizes.

        A new image begins with u = w = argmin h. All images of the batch then settle together while theta waits.
        """
        batch, energy = here.batch, here.energy
        c = self.c * (here.k + 1) ** self.p
        new = [n for n, i in enumerate(batch.images) if i not in state.u.tensors]
        settle = batch.share.count(len(new)) > 0
        u = state.u.recall(batch.images, energy.start)
        w = state.w.recall(batch.images, energy.start)
        if new:
            places = torch.tensor(new, device=u.device)
            lower = self.solve(energy.take(places), u[places], here.first_accuracy(state) / (10 * c))
            here.cost.add(lower.iterations)
            u, w = u.index_copy(0, places, lower.x), w.index_copy(0, places, lower.x)
        if self.preconditioned:
            sizes = self._measured(here, u, c, SETTLE if settle else 1, state)
        else:
            sizes = self._proven(energy, batch.loss.smoothness, c)
        if settle:
            for _ in range(SETTLE):
                w = proximal_step(slopes, u, w, sizes)
                u = lower_step(slopes, u, w, sizes)
            here.cost.computations += 2 * SETTLE * len(u)
        return u, w, sizes

    def _proven(self, energy: Energy, smoothness: float, c: float) -> Sizes:
        """Return the steps for P = 1, from proven bounds.

        Unless it is given, 1 / gamma = ||A||^2 + ridge, the curvature of h without R. Where -4 mu is more, 1 / gamma =
        -4 mu: half the limit.
        """
        mu, largest = energy.bounds
        gamma = self.gamma or 1 / max(-4 * mu, energy.operator.norm_squared + energy.ridge)
        proven = proven_sizes(max(mu, -0.5 / gamma), largest, smoothness, gamma, c)
        return Sizes(gamma, self.eta or proven.eta, self.beta or proven.beta, c)

    def _measured(self, here: Iteration, u: Tensor, c: float, count: int, state: MehaState) -> Sizes:
        """Return the steps in the metric of the preconditioner, or of P = 1 where there is none."""
        batch, product = here.batch, here.energy.hessian(u)
        inverse = preconditioner(here.energy, u) or identity
        start = torch.randn(u.shape[1:], generator=torch.Generator().manual_seed(0)).to(u)
        v = state.v.recall(batch.images, start.expand_as(u))
        curvature, v = largest_curvature(lambda v: product(v) + batch.loss.smoothness / c * v, inverse, v, count)
        state.v.remember(batch.images, v)
        here.cost.computations += (1 + count) * len(u)
        gamma = self.gamma or GAMMA
        step = 1 / (curvature + 1 / gamma)
        return Sizes(gamma, self.eta or step, self.beta or step, c, inverse)


def largest_curvature(
    product: Linear, inverse: Linear, v: Tensor, count: int
) -> tuple[Tensor, Tensor]:  # (B, C, H, W) -> (B, 1, 1, 1), (B, C, H, W)
    """Return |<K v, P^-1 K v> / <v, K v>| of each image after `count` steps v <- P^-1 K v, and v.

    For K > 0 it is never more than the largest eigenvalue of P^-1 K. Where the curvature along v is zero, it is 1.
    """
    largest = v.new_ones(len(v), 1, 1, 1)
    for _ in range(count):
        changed = product(v)
        after = inverse(changed)
        along = (v * changed).sum((1, 2, 3), keepdim=True)
        quotient = (changed * after).sum((1, 2, 3), keepdim=True) / along
        largest = torch.where(along == 0, largest, quotient.abs())
        v = after / after.square().mean((1, 2, 3), keepdim=True).sqrt()
    return largest, v


def _slopes(batch: Batch, energy: Energy) -> Slopes:
    """Return the gradients of the images' own F and h by u, and of their means by theta."""

    def by_theta(u: Tensor) -> Theta:
        return batch.share.mean(tuple(g / len(u) for g in batch.learned.slopes(u)))

    return Slopes(batch.loss.gradient, None, energy.gradient, by_theta)
