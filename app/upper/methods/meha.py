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
preconditioner of the lower level, at the present u and theta; it brings the condition below a hundred. How large P^-1
d2(h + F / c)/du2 is, one step of a power iteration says at every step. In that metric

    eta = beta = 1 / (K + 1 / gamma),    K that estimate.

They are equal because u and w then lag alike: u - w, which c_k multiplies, does not see that theta has moved.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
from app.lower.preconditioner import preconditioner
from app.upper.descent import Descent
from app.upper.method import Batch, Computations, State, Step, Theta, energy_at, first_accuracy, require_finite
from app.upper.methods.moreau import Linear, Sizes, Slopes, iterate, lower_step, proven_sizes, proximal_step
from app.upper.trial import tight_loss

SETTLE = 10  # iterations of u, w and K alone at the first visit of an image
GAMMA = 4.0


@dataclass(frozen=True)
class Meha:
    solve: Solver  # for the first u = w of an image, and for the automatic alpha_0
    descent: Descent  # alpha_k
    c: float
    p: float
    gamma: float = 0.0  # 0, as for eta and beta: found
    eta: float = 0.0
    beta: float = 0.0
    preconditioned: bool = True

    full_batch: ClassVar[bool] = False
    finite_sum: ClassVar[bool] = True
    needs_convexity: ClassVar[bool] = False

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost = energy_at(k, batch), Computations()
        slopes = _slopes(batch, energy)
        u, w, sizes = self._start(k, batch, energy, slopes, state, cost)
        x, loss, alpha = u, batch.loss.value(u), 0.0
        probe = tight_loss(batch, self.solve, x, first_accuracy(batch, energy, state), cost)

        def move(d: Theta) -> Slopes:
            nonlocal alpha
            require_finite(k, loss, *d)
            z = tuple(sizes.c * g for g in d)  # estimates the hypergradient
            theta = tuple(batch.learned.parameters())
            alpha = self.descent.step(k, theta, z, state, probe, share=2 / sizes.c)
            return _slopes(batch, batch.energy())

        with torch.no_grad():
            u, w = iterate(slopes, u, w, sizes, move)
        state.remember("u", batch.images, u)
        state.remember("w", batch.images, w)
        gradients = torch.full((len(x),), 4, device=x.device)  # of h: two by images, two by theta
        cost.add(gradients)
        return Step(
            x, loss, float("nan"), alpha, torch.full_like(loss, torch.inf), torch.zeros_like(loss, dtype=torch.bool),
            gradients, torch.full_like(gradients, int(self.preconditioned)), cost.total,
        )  # fmt: skip

    @torch.no_grad()
    def _start(
        self, k: int, batch: Batch, energy: Energy, slopes: Slopes, state: State, cost: Computations
    ) -> tuple[Tensor, Tensor, Sizes]:
        """The last (u, w) of the images. A new one begins with u = w = argmin h, which settle together with the others
        of the batch while theta waits."""
        c = self.c * (k + 1) ** self.p
        known = state.images.get("u", {})
        new = [n for n, i in enumerate(batch.images) if i not in known]
        u = state.recall("u", batch.images, energy.start)
        w = state.recall("w", batch.images, energy.start)
        if new:
            places = torch.tensor(new, device=u.device)
            lower = self.solve(energy.take(places), u[places], first_accuracy(batch, energy, state) / (10 * c))
            cost.add(lower.iterations)
            u, w = u.index_copy(0, places, lower.x), w.index_copy(0, places, lower.x)
        if self.preconditioned:
            sizes = self._measured(batch, energy, u, c, SETTLE if new else 1, state, cost)
        else:
            sizes = self._proven(energy, batch.loss.smoothness, c)
        if new:
            for _ in range(SETTLE):
                w = proximal_step(slopes, u, w, sizes)
                u = lower_step(slopes, u, w, sizes)
            cost.add(torch.full((len(u),), 2 * SETTLE))
        return u, w, sizes

    def _proven(self, energy: Energy, smoothness: float, c: float) -> Sizes:
        """P = 1, from proven bounds."""
        mu, largest = energy.bounds
        gamma = self.gamma or automatic_gamma(energy)
        proven = proven_sizes(max(mu, -0.5 / gamma), largest, smoothness, gamma, c)
        return Sizes(gamma, self.eta or proven.eta, self.beta or proven.beta, c)

    def _measured(
        self, batch: Batch, energy: Energy, u: Tensor, c: float, count: int, state: State, cost: Computations
    ) -> Sizes:
        inverse, product = preconditioner(energy, u), energy.hessian(u)
        start = torch.randn(u.shape[1:], generator=torch.Generator().manual_seed(0)).to(u)
        v = state.recall("v", batch.images, start.expand_as(u))
        curvature, v = largest_curvature(lambda v: product(v) + batch.loss.smoothness / c * v, inverse, v, count)
        state.remember("v", batch.images, v)
        cost.add(torch.full((len(u),), 1 + count))
        gamma = self.gamma or GAMMA
        step = 1 / (curvature + 1 / gamma)
        return Sizes(gamma, self.eta or step, self.beta or step, c, inverse)


def largest_curvature(product: Linear, inverse: Linear, v: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of P^-1 K, for each image: <K v, P^-1 K v> / <v, K v> after `count` steps v <- P^-1 K v -> ((B, 1, 1, 1), v).
    Never more than the largest eigenvalue."""
    largest = v.new_ones(len(v), 1, 1, 1)
    for _ in range(count):
        changed = product(v)
        after = inverse(changed)
        along = (v * changed).sum((1, 2, 3), keepdim=True)
        largest = (changed * after).sum((1, 2, 3), keepdim=True) / along
        v = after / after.square().mean((1, 2, 3), keepdim=True).sqrt()
    return largest, v


def automatic_gamma(energy: Energy) -> float:
    """1 / gamma = ||A||^2 + ridge, the curvature of h without R, or -4 mu where this is more: half the limit."""
    return 1 / max(-4 * energy.bounds[0], energy.operator.norm_squared + energy.ridge)


def _slopes(batch: Batch, energy: Energy) -> Slopes:
    """Of the images' own F and h by u, of their means by theta."""

    def by_theta(u: Tensor) -> Theta:
        return tuple(g / len(u) for g in batch.learned.slopes(u))

    return Slopes(batch.loss.gradient, None, energy.gradient, by_theta)
