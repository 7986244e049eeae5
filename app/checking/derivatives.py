"""The derivatives of a regularizer, as they are computed for a user, against references in float64:

    autograd      of the value of R by x and theta, in torch alone
    differences   (f(. + h d) - f(. - h d)) / (2 h),  h = 1e-8,  of the function that each is the derivative of

and the compiled kernel against torch in its own precision. Where phi'' jumps, a response may fall on either side by
rounding: of images that differ in their noise alone, the best one counts, since a fault is seen in all of them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf

import torch
from torch import Tensor

from app.checking.finding import Finding, Rows, difference, rounding
from app.upper.theta import Theta, inner_product
from regularizers import AutogradFunctional, Functional, Regularizer
from regularizers.conversion import converted
from regularizers.foe.compiled.choice import fastest
from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.rescaled import RescaledFunctional

KINDS = ((1.0, 0.1), (0.0, 0.01), (0.0, 1.0))  # shares of the image and of noise
DRAWS = 3  # images of each kind, at most
STEP = 1e-8  # in the root mean square over the pixels, or over each parameter
INEXACT = 1e-4  # relative error of differences: STEP over the smallest smoothings, and rounding / STEP
NAMES = "gradient of R", "Hessian product of R", "mixed derivative of R", "slopes of R"


def derivative_rows(r: Regularizer, clean: Tensor) -> Rows:  # (1, C, H, W)
    """Return what there is to be looked at in a regularizer in its own precision, by name."""
    exact, rows = r.promoted(), {}
    for i, name in enumerate(NAMES):
        rows[f"{name}: autograd"] = partial(_worst, rounding(clean.dtype), clean, partial(_by_autograd, r, exact, i))
        rows[f"{name}: differences"] = partial(_worst, INEXACT, clean.double(), partial(_by_differences, exact, i))
    for dtype in (torch.float32, torch.float64):
        name = f"compiled kernel in {str(dtype).removeprefix('torch.')}: torch"
        rows[name] = partial(_compiled, converted(r, dtype), clean.to(dtype))
    return rows


def _worst(limit: float, clean: Tensor, look: Callable[[Tensor, Tensor], float]) -> Finding:
    draw, worst = torch.Generator().manual_seed(0), 0.0
    for share, noise in KINDS:
        best = inf
        for _ in range(DRAWS):
            n, v = torch.randn(2, *clean.shape, generator=draw, dtype=torch.float64).to(clean)
            best = min(best, look(share * clean + noise * n, v))
            if best <= limit:
                break
        worst = max(worst, best)
    return Finding(measured=worst, limit=limit)


@torch.no_grad()
def _computed(r: Functional | Regularizer, i: int, x: Tensor, v: Tensor) -> Theta:
    """The i-th of NAMES."""
    if i < 2:
        f = r.frozen() if isinstance(r, Regularizer) else r
        return (f.hessian(x)(v) if i else f.gradient(x),)
    return r.mixed(x, v) if i == 2 else r.slopes(x)


def _by_autograd(r: Regularizer, exact: Regularizer, i: int, x: Tensor, v: Tensor) -> float:
    return difference(_computed(r, i, x, v), _computed(AutogradFunctional.of(exact), i, x.double(), v.double()))


@torch.no_grad()
def _by_differences(exact: Regularizer, i: int, x: Tensor, v: Tensor) -> float:
    """Along v of a Hessian, and along themselves of those that are derivatives of one number."""
    f, found = AutogradFunctional.of(exact), _computed(exact, i, x, v)
    d = (v,) if i == 1 else tuple(s * (s.numel() ** 0.5 / max(float(s.norm()), 1e-300)) for s in found)

    def at(t: float) -> Tensor:
        if i < 2:
            return (f.gradient if i else f.value)(x + t * d[0])
        moved = replace(f, parameters={name: p + t * e for (name, p), e in zip(f.parameters.items(), d, strict=True)})
        return (moved.gradient(x) * v).sum() if i == 2 else moved.value(x)

    slope = (at(STEP) - at(-STEP)) / (2 * STEP)
    return difference((slope,), found if i == 1 else (torch.full_like(slope, inner_product(found, d)),))


def _compiled(r: Regularizer, clean: Tensor) -> Finding:  # (1, C, H, W)
    """Gradient, product, mixed derivative and summary, of a field of experts that has a kernel."""
    f = r.frozen()
    f = f.base if isinstance(f, RescaledFunctional) else f
    if not isinstance(f, FieldOfExpertsFunctional):
        return Finding(measured=None, note="none for this family")
    if fastest(clean, f.filters.shape[-1], f.potential.name, f.potential.size) is None:
        return Finding(measured=None, note="not compiled: torch alone computes")

    def every(x: Tensor, v: Tensor) -> Theta:
        return f.gradient(x), f.hessian(x)(v), *f.mixed(x, v), *f.curvature_model(x)

    def look(x: Tensor, v: Tensor) -> float:
        with torch.no_grad():
            fast = every(x, v)
        return difference(fast, [t.detach() for t in every(x.clone().requires_grad_(), v)])

    return _worst(rounding(clean.dtype), clean, look)
