"""The bounds mu <= d2h/dx2 <= L against eigenvalues at points that are chosen to break them, in float64.

Rayleigh and Ritz: the eigenvalues of Q^T H Q, Q an orthonormal basis of a Krylov space, lie between those of H. None of
them proves a bound, and one of them can disprove it. L is most endangered where responses are 0 or at a kink, mu where
all of them are in the concave part of their potential, or so large that R is flat.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from app.checking.finding import Finding
from app.lower.energy import ROUNDINGS, Energy
from app.lower.preconditioner import preconditioner
from app.lower.solution import norm
from app.lower.stationary import with_modulus
from app.upper.linear import conjugate_gradient

STEPS, INVERSES, PRODUCTS = 30, 2, 60  # of Lanczos, of inverse iteration, and products of each of its solves
HEIGHTS = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # of what is pushed, on the scale of images


def points(clean: Tensor) -> Iterator[Tensor]:  # (1, C, H, W)
    """Yield a flat image, the image, its edges, a checkerboard, and noise of all heights, the last one extreme."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, generator=draw, dtype=torch.float64).to(clean)
    rows, columns = (torch.arange(n, device=clean.device) for n in clean.shape[2:])
    board = ((rows[:, None] + columns) % 2).to(clean).expand_as(clean)
    yield from (torch.full_like(clean, 0.5), clean, (clean > clean.mean()).to(clean))
    for height in HEIGHTS:
        yield from (height * noise, height * board)
    yield 1e6 * noise


def ritz(product: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> tuple[Tensor, Tensor]:  # (1, C, H, W)
    """Return Ritz values (k,), ascending, of Lanczos from v, orthogonalized twice, and the vector of the lowest."""
    basis, images = v.new_empty(0, v.numel()), v.new_empty(0, v.numel())
    w = v.flatten()
    for _ in range(min(steps, v.numel())):
        size = w.norm()
        w = w - basis.T @ (basis @ w)
        w = w - basis.T @ (basis @ w)
        if not float(w.norm()) > 1e-10 * float(size):
            break
        basis = torch.cat([basis, (w / w.norm())[None]])
        w = product(basis[-1].view_as(v)).flatten()
        images = torch.cat([images, w[None]])
    small = basis @ images.T
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    return values, (vectors[:, 0] @ basis).view_as(v)


def extremes(energy: Energy, x: Tensor) -> tuple[float, float, Tensor]:  # (1, C, H, W)
    """Return the smallest and the largest Ritz value at x that were met, and the vector of the smallest. Lanczos
    finds the ends that stand alone; inverse iteration finds the lower end among many eigenvalues that are near it."""
    hessian = energy.hessian(x)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype).to(x)
    values, lowest = ritz(hessian, v, STEPS)
    inverse, q = preconditioner(with_modulus(energy), x), v
    for _ in range(INVERSES):
        q = q / q.norm()
        q = conjugate_gradient(hessian, q, 1e-3 * norm(q), None, inverse, PRODUCTS).q
    more, candidate = ritz(hessian, q, STEPS // 3) if float(q.norm()) > 0 else (values, lowest)
    least = lowest if values[0] < more[0] else candidate
    return float(min(values[0], more[0])), float(max(values[-1], more[-1])), least


@torch.no_grad()
def seen(energy: Energy, clean: Tensor) -> tuple[float, float]:  # (1, C, H, W), float64
    """Return the smallest and the largest curvature of h that were found at any point."""
    found = [extremes(energy, x) for x in points(clean)]
    _, _, v = min(found, key=lambda f: f[0])
    # Where v is large, so are the responses to it: at some height they are in the concave part.
    found += [extremes(energy, height * v / v.abs().max()) for height in HEIGHTS]
    return min(low for low, _, _ in found), max(high for _, high, _ in found)


def modulus_holds(energy: Energy, curvatures: tuple[float, float]) -> Finding:
    """Compare mu with the smallest curvature that was found."""
    (mu, largest), (low, _) = energy.bounds, curvatures
    slack = ROUNDINGS * torch.finfo(torch.float64).eps * largest
    return Finding(measured=low, limit=mu - slack, at_least=True, note=f"slack {low - mu:.2g}")


def largest_holds(energy: Energy, curvatures: tuple[float, float]) -> Finding:
    """Compare L with the largest curvature that was found."""
    (_, largest), (_, high) = energy.bounds, curvatures
    proven = "" if energy.operator.norm_proven else ", ||A||^2 is estimated"
    slack = ROUNDINGS * torch.finfo(torch.float64).eps * largest
    return Finding(measured=high, limit=largest + slack, note=f"slack {1 - high / largest:.1%}{proven}")
