"""The derivatives of a regularizer, as they are computed for a user, against two references in float64:

    autograd      of the value of R by x and theta, in torch alone
    differences   (f(. + h d) - f(. - h d)) / (2 h),  h = 1e-6,  of the function that each is the derivative of

and the compiled kernel against torch in its own precision. Images are photographs with noise, and noise. Where phi''
jumps, a response may fall on either side by rounding: of images that differ in their noise alone, the best one counts,
since what is wrong is wrong for all of them.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from app.checking.finding import Finding, Rows, difference, rounding
from app.upper.theta import Theta, inner_product, move
from regularizers import AutogradFunctional, Functional, Regularizer, Rescaled
from regularizers.conversion import converted
from regularizers.foe.compiled.choice import fastest
from regularizers.foe.functional import FieldOfExpertsFunctional

DRAWS = 3  # images of each kind
STEP = 1e-6  # in the root mean square over the pixels, or over each parameter
INEXACT = 1e-4  # relative error of differences: STEP over the smallest smoothings, and rounding / STEP

Look = Callable[[Tensor, Tensor], float]  # image and direction, (1, C, H, W) each -> relative difference


def derivative_rows(r: Regularizer, clean: Tensor) -> Rows:  # (1, C, H, W)
    """Return what there is to be looked at in a regularizer in its own precision, by name."""
    exact, rows = r.promoted(), {}
    moves = gradient_moves, hessian_moves, mixed_moves, slopes_move
    for i, name in enumerate(("gradient of R", "Hessian product of R", "mixed derivative of R", "slopes of R")):
        rows[f"{name}: autograd"] = partial(_worst, rounding(clean.dtype), clean, partial(by_autograd, r, exact, i))
        rows[f"{name}: differences"] = partial(_worst, INEXACT, clean.double(), partial(moves[i], exact))
    for dtype in (torch.float32, torch.float64):
        name = f"compiled kernel in {str(dtype).removeprefix('torch.')}: torch"
        rows[name] = partial(compiled, converted(r, dtype), clean.to(dtype))
    return rows


def _worst(limit: float, clean: Tensor, look: Look) -> Finding:
    draw, worst = torch.Generator().manual_seed(0), 0.0
    for share, noise in ((1.0, 0.1), (1.0, 0.01), (0.0, 1.0)):
        errors = []
        for _ in range(DRAWS):
            x, v = (torch.randn(clean.shape, generator=draw, dtype=torch.float64).to(clean) for _ in range(2))
            errors.append(look(share * clean + noise * x, v))
        worst = max(worst, min(errors))
    return Finding(measured=worst, limit=limit)


def _all(f: Functional | Regularizer, i: int, x: Tensor, v: Tensor) -> Theta:
    """The i-th of gradient, Hessian product, mixed derivative and slopes."""
    looks: tuple[Callable[[], Theta], ...] = (
        lambda: (f.gradient(x),), lambda: (f.hessian(x)(v),), lambda: f.mixed(x, v), lambda: f.slopes(x),
    )  # fmt: skip
    return tuple(t.detach() for t in looks[i]())


def by_autograd(r: Regularizer, exact: Regularizer, i: int, x: Tensor, v: Tensor) -> float:
    """Return the relative difference of a derivative from autograd of the value in float64."""
    with torch.no_grad():
        found = _all(r.frozen() if i < 2 else r, i, x, v)
    return difference(found, _all(AutogradFunctional.of(exact), i, x.double(), v.double()))


@torch.no_grad()
def gradient_moves(r: Regularizer, x: Tensor, v: Tensor) -> float:
    """Compare <dR/dx, d> with the differences of R, d along the gradient and v."""
    f = r.frozen()
    g = f.gradient(x)
    d = v + g * (v.norm() / g.norm())
    return difference((_moved(lambda x: f.value(x), x, d),), ((g * d).sum()[None],))


@torch.no_grad()
def hessian_moves(r: Regularizer, x: Tensor, v: Tensor) -> float:
    """Compare d2R/dx2 v with the differences of dR/dx."""
    f = r.frozen()
    return difference((_moved(f.gradient, x, v),), (f.hessian(x)(v),))


def _moved(f: Callable[[Tensor], Tensor], x: Tensor, d: Tensor) -> Tensor:
    return (f(x + STEP * d) - f(x - STEP * d)) / (2 * STEP)


def mixed_moves(r: Regularizer, x: Tensor, v: Tensor) -> float:
    """Compare J^T v with the differences of <dR/dx, v>."""
    return _along_theta(r, r.mixed(x, v), lambda f: float((f.gradient(x) * v).sum()))


def slopes_move(r: Regularizer, x: Tensor, v: Tensor) -> float:
    """Compare dR/dtheta with the differences of R."""
    return _along_theta(r, r.slopes(x), lambda f: float(f.value(x).sum()))


def _along_theta(r: Regularizer, slopes: Theta, f: Callable[[Functional], float]) -> float:
    """The largest relative error of <slopes, d>, d each tensor's own direction."""
    moving, worst = deepcopy(r), 0.0
    theta, total = tuple(moving.parameters()), sum(float(s.norm()) for s in slopes)
    for j, slope in enumerate(slopes):
        length = float(slope.norm())
        if length <= 1e-3 * total:  # lost in the rounding of R
            continue
        d = tuple(slope * (slope.numel() ** 0.5 / length) if k == j else torch.zeros_like(p)
                  for k, p in enumerate(theta))  # fmt: skip
        move(theta, d, -STEP)
        above = f(moving.frozen())
        move(theta, d, 2 * STEP)
        moved = (above - f(moving.frozen())) / (2 * STEP)
        move(theta, d, -STEP)
        expected = inner_product(slopes, d)
        worst = max(worst, abs(moved - expected) / abs(expected))
    return worst


def compiled(r: Regularizer, clean: Tensor) -> Finding:  # (1, C, H, W)
    """Compare gradient, product, mixed derivative and summary of the compiled kernel with those of torch, where a
    field of experts has one."""
    f = r.frozen()
    f = f.base if isinstance(r, Rescaled) else f
    if not isinstance(f, FieldOfExpertsFunctional):
        return Finding(measured=None, note="none for this family")
    if fastest(clean, f.filters.shape[-1], f.potential.name) is None:
        return Finding(measured=None, note="not compiled: torch alone computes")

    def every(x: Tensor, v: Tensor) -> Theta:
        return *_all(f, 0, x, v), *_all(f, 1, x, v), *_all(f, 2, x, v), *f.curvature_model(x)

    def look(x: Tensor, v: Tensor) -> float:
        with torch.no_grad():
            fast = every(x, v)
        with torch.enable_grad():
            return difference(fast, [t.detach() for t in every(x.requires_grad_(), v)])

    return _worst(rounding(clean.dtype), clean, look)
