"""The bounds mu <= d2h/dx2 <= L and lambda_min <= A^T A <= ||A||^2 against eigenvalues, in float64, of h at points that
are chosen to break them.

Rayleigh and Ritz: the eigenvalues of Q^T H Q, Q an orthonormal basis of a Krylov space, lie between those of H. None of
them proves a bound, and one of them can disprove it. L is most endangered where responses are 0 or at a kink, mu where
all of them are in the concave part of their potential, or so large that R is flat.
"""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from app.checking.finding import Finding, Rows
from app.lower.energy import ROUNDINGS, Energy, Operator
from app.lower.preconditioner import preconditioner
from app.lower.solution import norm
from app.lower.stationary import with_modulus
from app.upper.linear import conjugate_gradient

STEPS = 30  # of Lanczos
WORST, INVERSES, PRODUCTS = 3, 2, 60  # points and steps of inverse iteration, and products of each step
HEIGHTS = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # of what is pushed, on the scale of images


def operator_rows(a: Operator, clean: Tensor) -> Rows:  # (1, C, H, W), float64
    """Return the rows of A."""
    values = cache(torch.no_grad()(lambda: ritz(a.normal, _start(clean), 2 * STEPS)[0]))
    return {
        "lambda_min: smallest curvature of A": lambda: _bounded(values()[0], a.lambda_min, a.norm_squared, True),
        "||A||^2: largest curvature of A": lambda: _bounded(values()[-1], a.norm_squared, a.norm_squared, False),
    }


def curvature_rows(h: Energy, clean: Tensor) -> Rows:  # (1, C, H, W), float64
    """Return the rows of h."""
    values = cache(lambda: seen(h, clean))
    return {
        "mu: smallest curvature of h": lambda: _bounded(values()[0], *h.bounds, True),
        "L: largest curvature of h": lambda: _bounded(values()[-1], h.bounds[1], h.bounds[1], False),
    }


def _start(clean: Tensor) -> Tensor:
    return torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).to(clean)


def _bounded(found: Tensor, bound: float, largest: float, at_least: bool) -> Finding:
    sign = -1 if at_least else 1
    limit = bound + sign * ROUNDINGS * torch.finfo(found.dtype).eps * largest
    slack = f"slack {sign * (bound - float(found)):.2g}"
    return Finding(measured=float(found), limit=limit, at_least=at_least, note=slack)


def points(clean: Tensor) -> Iterator[Tensor]:  # (1, C, H, W)
    """Yield a flat image, the image, its edges, checkerboards and noise of all heights, the last one extreme."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    rows, columns = (torch.arange(n, device=clean.device) for n in clean.shape[2:])
    board = ((rows[:, None] + columns) % 2).to(clean).expand_as(clean)
    yield from (torch.full_like(clean, 0.5), clean, (clean > clean.mean()).to(clean), 1e6 * noise)
    yield from (height * x for height in HEIGHTS for x in (noise, board))


def ritz(product: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> tuple[Tensor, Tensor]:  # (1, C, H, W)
    """Return Ritz values (k,), ascending, of Lanczos from v, orthogonalized twice, and the vector of the lowest."""
    basis = images = v.new_empty(0, v.numel())
    w = v.flatten()
    for _ in range(min(steps, v.numel())):
        size = float(w.norm())
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        if not float(w.norm()) > 1e-10 * size:
            break
        basis = torch.cat([basis, (w / w.norm())[None]])
        w = product(basis[-1].view_as(v)).flatten()
        images = torch.cat([images, w[None]])
    values, vectors = torch.linalg.eigh(basis @ images.T)
    return values, (vectors[:, 0] @ basis).view_as(v)


@torch.no_grad()
def seen(energy: Energy, clean: Tensor) -> Tensor:  # (1, C, H, W), float64 -> (2,)
    """Return the smallest and the largest curvature of h that were found at any point."""
    start = _start(clean)
    found = [(x, *ritz(energy.hessian(x), start, STEPS)) for x in points(clean)]
    _, _, v = min(found, key=lambda f: float(f[1][0]))
    # Where v is large, so are the responses to it: at some height they are in the concave part.
    pushed = [height * v / v.abs().max() for height in HEIGHTS]
    found += [(x, *ritz(energy.hessian(x), start, STEPS)) for x in pushed]
    found.sort(key=lambda f: float(f[1][0]))
    values = torch.cat([v for _, v, _ in found] + [_lower_end(energy, x, v) for x, _, v in found[:WORST]])
    return torch.stack([values.min(), values.max()])


def _lower_end(energy: Energy, x: Tensor, v: Tensor) -> Tensor:  # 2 x (1, C, H, W) -> (k,)
    """Ritz values after inverse iteration, which finds the lower end among many eigenvalues that are near it."""
    hessian, inverse = energy.hessian(x), preconditioner(with_modulus(energy), x)
    for _ in range(INVERSES):
        q = conjugate_gradient(hessian, v, 1e-3 * norm(v), None, inverse, PRODUCTS).q
        v = q / q.norm() if float(q.norm()) > 0 else v  # no q is found where v has a negative curvature
    return ritz(hessian, v, STEPS // 3)[0]
