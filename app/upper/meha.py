"""MEHA, the Moreau envelope based Hessian-free algorithm (Liu, Liu, Yao, Zeng, Zhang: arXiv 2405.09927, Algorithm 1).

The lower level is replaced by h(theta, u) <= v(theta, u) with the Moreau envelope of h,

    v(theta, u) = min over w of  h(theta, w) + ||w - u||^2 / (2 gamma),

and this constraint by a penalty: minimise F / c_k + h - v over theta and u. One step, with the new w in the second line
and the new w and theta in the third (the paper's x, y, theta are our theta, u, w):

    w      <-  w - eta (dh/dw(theta, w) + (w - u) / gamma)
    theta  <-  theta - alpha_k (dF/dtheta(theta, u) / c_k + dh/dtheta(theta, u) - dh/dtheta(theta, w))
    u      <-  u - beta (dF/du(theta, u) / c_k + dh/du(theta, u) - (u - w) / gamma),    c_k = c (k + 1)^p,  p < 1/2.

No Hessian, no linear system, and h need not be convex. Nothing is certified, and u is not a reconstruction: F / c_k
draws it towards the clean image. A minimiser for fixed c is one of the bilevel problem up to O(1 / c).

Here F and h are means over images, each with its own u and w; the factor 1 / N of their steps is in eta and beta.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
from app.upper.descent import Descent
from app.upper.method import Batch, Computations, State, Step, Theta, energy_at, first_accuracy, require_finite
from app.upper.trial import tight_loss

SETTLE = 20  # iterations of u and w alone at the first visit of an image, so that the first direction means something


@dataclass(frozen=True)
class Slopes:
    """Gradients at one theta; `upper_by_theta` is None where F does not depend on theta directly."""

    upper: Callable[[Tensor], Tensor]  # u -> dF/du
    upper_by_theta: Callable[[Tensor], Theta] | None
    lower: Callable[[Tensor], Tensor]  # u -> dh/du
    lower_by_theta: Callable[[Tensor], Theta]


@dataclass(frozen=True)
class Sizes:
    gamma: float
    eta: float
    beta: float
    c: float  # c_k


def proven_sizes(mu: float, largest: float, smoothness: float, gamma: float, c: float) -> Sizes:
    """Steps under which, at fixed theta, a merit function like the paper's decreases, if gamma mu > -1.

    mu <= d2h/du2 <= largest, mu of any sign; smoothness: the Lipschitz constant of dF/du. The proximal problem of w has
    curvatures in [m, M] = [mu + 1 / gamma, largest + 1 / gamma]: with eta = 1 / M its error shrinks by 1 - m / M. (The
    paper's eta <= m / M^2 does not use that dh is a gradient.) The paper asks for a beta that is small enough. Here

        V = F / c + h - v + C ||w - w*(u)||^2,    C = beta / (gamma^2 eta m),

    decreases if 1 / (2 beta) - K / 2 >= 3 C l^2 / (eta m), with l = 1 / (1 + gamma mu) the Lipschitz constant of w* and
    K = smoothness / c + largest + max(0, -mu) l that of d(V - C ...)/du: for instance if beta <= 1 / (2 K) and
    beta <= eta (1 + gamma mu)^2 / 12^(1/2).
    """
    stretch = 1 + gamma * mu
    eta = 1 / (largest + 1 / gamma)
    curvature = smoothness / c + largest + max(0.0, -mu) / stretch
    return Sizes(gamma, eta, min(1 / (2 * curvature), eta * stretch**2 / 12**0.5), c)


def proximal_step(slopes: Slopes, u: Tensor, w: Tensor, sizes: Sizes) -> Tensor:
    """The next w."""
    return w - sizes.eta * (slopes.lower(w) + (w - u) / sizes.gamma)


def direction(slopes: Slopes, u: Tensor, w: Tensor, sizes: Sizes) -> Theta:
    """What theta moves against."""
    at_u, at_w = slopes.lower_by_theta(u), slopes.lower_by_theta(w)
    difference = tuple(a - b for a, b in zip(at_u, at_w, strict=True))
    if slopes.upper_by_theta is None:
        return difference
    return tuple(f / sizes.c + d for f, d in zip(slopes.upper_by_theta(u), difference, strict=True))


def lower_step(slopes: Slopes, u: Tensor, w: Tensor, sizes: Sizes) -> Tensor:
    """The next u."""
    return u - sizes.beta * (slopes.upper(u) / sizes.c + slopes.lower(u) - (u - w) / sizes.gamma)


def iterate(
    slopes: Slopes, u: Tensor, w: Tensor, sizes: Sizes, move: Callable[[Theta], Slopes]
) -> tuple[Tensor, Tensor]:
    """One step of the algorithm -> (u, w). `move` changes theta and returns the gradients at the new one."""
    w = proximal_step(slopes, u, w, sizes)
    moved = move(direction(slopes, u, w, sizes))
    return lower_step(moved, u, w, sizes), w


@dataclass(frozen=True)
class Meha:
    solve: Solver  # for the first u = w of an image, and for the automatic alpha_0
    descent: Descent  # alpha_k
    c: float
    p: float
    gamma: float = 0.0  # 0, as for eta and beta: from proven bounds
    eta: float = 0.0
    beta: float = 0.0

    full_batch: ClassVar[bool] = False
    finite_sum: ClassVar[bool] = True
    needs_convexity: ClassVar[bool] = False

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost = energy_at(k, batch), Computations()
        sizes, slopes = self.sizes(k, energy, batch.loss.smoothness), _slopes(batch, energy)
        u, w = self._start(batch, energy, slopes, sizes, state, cost)
        x, loss, alpha = u, batch.loss.value(u), 0.0

        probe = tight_loss(batch, self.solve, x, first_accuracy(batch, energy, state), cost)

        def move(d: Theta) -> Slopes:
            nonlocal alpha
            require_finite(k, loss, *d)
            z = tuple(sizes.c * g for g in d)  # estimates the hypergradient
            theta = tuple(batch.learned.parameters())
            alpha = self.descent.step(k, theta, z, state, probe, share=pace(energy, sizes))
            return _slopes(batch, batch.energy())

        with torch.no_grad():
            u, w = iterate(slopes, u, w, sizes, move)
        state.remember("u", batch.images, u)
        state.remember("w", batch.images, w)
        gradients = torch.full((len(x),), 4, device=x.device)  # of h: two by images, two by theta
        cost.add(gradients)
        return Step(
            x, loss, float("nan"), alpha, torch.full_like(loss, torch.inf), torch.zeros_like(loss, dtype=torch.bool),
            gradients, torch.zeros_like(gradients), cost.total,
        )  # fmt: skip

    def sizes(self, k: int, energy: Energy, smoothness: float) -> Sizes:
        """gamma, eta, beta and c_k at the present theta."""
        mu, largest = energy.bounds
        c, gamma = self.c * (k + 1) ** self.p, self.gamma or automatic_gamma(energy)
        proven = proven_sizes(max(mu, -0.5 / gamma), largest, smoothness, gamma, c)
        return Sizes(gamma, self.eta or proven.eta, self.beta or proven.beta, c)

    @torch.no_grad()
    def _start(
        self, batch: Batch, energy: Energy, slopes: Slopes, sizes: Sizes, state: State, cost: Computations
    ) -> tuple[Tensor, Tensor]:
        """The last (u, w) of the images. A new one begins with u = w = argmin h, which settle together with the others
        of the batch while theta waits."""
        known = state.images.get("u", {})
        new = [n for n, i in enumerate(batch.images) if i not in known]
        u = state.recall("u", batch.images, energy.backprojection)
        w = state.recall("w", batch.images, energy.backprojection)
        if not new:
            return u, w
        places = torch.tensor(new, device=u.device)
        lower = self.solve(energy.take(places), u[places], first_accuracy(batch, energy, state) / (10 * sizes.c))
        cost.add(lower.iterations)
        u, w = u.index_copy(0, places, lower.x), w.index_copy(0, places, lower.x)
        for _ in range(SETTLE):
            w = proximal_step(slopes, u, w, sizes)
            u = lower_step(slopes, u, w, sizes)
        cost.add(torch.full((len(u),), 2 * SETTLE))
        return u, w


def pace(energy: Energy, sizes: Sizes) -> float:
    """How much slower theta must be than in a descent with exact gradients: u approaches its place by this rate, with
    gamma mu^2 / (1 + gamma mu) the least curvature of h - v, and c_k magnifies what is left of the way."""
    mu = max(0.0, energy.bounds[0])
    return sizes.beta * (1 / sizes.c + mu**2 * sizes.gamma / (1 + sizes.gamma * mu)) / sizes.c


def automatic_gamma(energy: Energy) -> float:
    """1 / gamma = ||A||^2 + ridge, the curvature of h without R, or -4 mu where this is more: half the limit."""
    return 1 / max(-4 * energy.bounds[0], energy.operator.norm_squared + energy.ridge)


def _slopes(batch: Batch, energy: Energy) -> Slopes:
    """Of the images' own F and h by u, of their means by theta."""

    def by_theta(u: Tensor) -> Theta:
        return tuple(g / len(u) for g in batch.learned.slopes(u))

    return Slopes(batch.loss.gradient, None, energy.gradient, by_theta)
