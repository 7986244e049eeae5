"""The three lines of MEHA (arXiv 2405.09927, Algorithm 1; see meha.py), and step sizes under which they descend.

    w      <-  w - eta (P^-1 dh/dw(theta, w) + (w - u) / gamma)
    theta  <-  theta - alpha (dF/dtheta(theta, u) / c + dh/dtheta(theta, u) - dh/dtheta(theta, w))
    u      <-  u - beta (P^-1 (dF/du(theta, u) / c + dh/du(theta, u)) - (u - w) / gamma)

P = 1 in the paper; another P >= 0 is the paper's algorithm in the variable P^(1/2) u.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from app.upper.theta import Theta

Linear = Callable[[Tensor], Tensor]


def identity(v: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
    """Return v as it is."""
    return v


@dataclass(frozen=True)
class Slopes:
    """The gradients of F and h at one theta; `upper_by_theta` is None where F does not depend on theta directly."""

    upper: Callable[[Tensor], Tensor]  # u -> dF/du
    upper_by_theta: Callable[[Tensor], Theta] | None
    lower: Callable[[Tensor], Tensor]  # u -> dh/du
    lower_by_theta: Callable[[Tensor], Theta]


@dataclass(frozen=True)
class Sizes:
    """The step sizes and constants of one iteration; eta and beta may be those of each image (B, 1, 1, 1)."""

    gamma: float
    eta: float | Tensor
    beta: float | Tensor
    c: float  # c_k
    inverse: Linear = identity  # P^-1


def proven_sizes(mu: float, largest: float, smoothness: float, gamma: float, c: float) -> Sizes:
    """Return steps under which, at fixed theta, a merit function like the paper's decreases, if gamma mu > -1.

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


def proximal_step(slopes: Slopes, u: Tensor, w: Tensor, sizes: Sizes) -> Tensor:  # (B, C, H, W) each
    """Return the next w."""
    return w - sizes.eta * (sizes.inverse(slopes.lower(w)) + (w - u) / sizes.gamma)


def direction(slopes: Slopes, u: Tensor, w: Tensor, sizes: Sizes) -> Theta:  # u, w (B, C, H, W)
    """Return what theta moves against."""
    at_u, at_w = slopes.lower_by_theta(u), slopes.lower_by_theta(w)
    difference = tuple(a - b for a, b in zip(at_u, at_w, strict=True))
    if slopes.upper_by_theta is None:
        return difference
    return tuple(f / sizes.c + d for f, d in zip(slopes.upper_by_theta(u), difference, strict=True))


def lower_step(slopes: Slopes, u: Tensor, w: Tensor, sizes: Sizes) -> Tensor:  # (B, C, H, W) each
    """Return the next u."""
    gradient = sizes.inverse(slopes.upper(u) / sizes.c + slopes.lower(u))
    return u - sizes.beta * (gradient - (u - w) / sizes.gamma)


def iterate(
    slopes: Slopes, u: Tensor, w: Tensor, sizes: Sizes, move: Callable[[Theta], Slopes]
) -> tuple[Tensor, Tensor]:  # (B, C, H, W) each
    """Make one step of the algorithm and return (u, w).

    `move` changes theta and returns the gradients at the new one.
    """
    w = proximal_step(slopes, u, w, sizes)
    moved = move(direction(slopes, u, w, sizes))
    return lower_step(moved, u, w, sizes), w
