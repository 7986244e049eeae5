"""The examples of GDPolyak (Davis, Drusvyatskiy, Jiang: arXiv 2409.19791): f >= 0 = min f grows like a fourth power.

    rosenbrock   f(x, y) = x^4 + 10 (y - x^2)^2
    sensing      f(X) = mean_i (||X^T a_i||^2 - ||X^T b_i||^2 - y_i)^2,  X of 100 x 4, and y_i made by an X of rank 2
    neurons      f(w) = E (relu(<w_1, z>) + relu(<w_2, z>) - relu(<v, z>))^2 / 2,  z standard normal in 100 dimensions

Steps, counts and the seed 3407 are those of the authors' public code (github.com/damek/GDPolyak), in float64. Sensing
is 4 times the formula of the paper, as that code has it. With t the angle of two vectors, E relu(<a, z>) relu(<b, z>) =
||a|| ||b|| (sin t + (pi - t) cos t) / (2 pi), so the last f is (Xu, Du: 2302.10034)

    ||w_1 + w_2 - v||^2 / 4 + (g(w_1, w_2) - g(w_1, v) - g(w_2, v)) / (2 pi),    g = ||a|| ||b|| (sin t - t cos t).

No lower level is in these examples, and x is no image: what is tried is the rule of app/lower/polyak.py, which
app/lower/gd_polyak.py and app/upper/methods/gd_polyak.py follow.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi

import torch
from torch import Tensor

from app.lower import polyak

SEED = 3407
BELOW = 1.0  # how far under min f the bound lies, where min f is not told
KINDS = ("gradient descent", "Polyak steps", "GDPolyak", "GDPolyak, min f not told")
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Ravine:
    """f, where all methods begin, and the parameters of the paper."""

    f: Function  # (N,) -> ()
    start: Tensor  # (N,)
    step: float  # of the short steps
    short: int  # K, in an epoch
    epochs: int  # I

    @property
    def gradients(self) -> int:
        return self.short * self.epochs


def rosenbrock() -> Ravine:
    """Return x^4 + 10 (y - x^2)^2."""
    start = torch.randn(2, generator=_generator(), dtype=torch.float64)
    return Ravine(f=lambda p: p[0] ** 4 + 10 * (p[1] - p[0] ** 2) ** 2, start=start, step=0.0125, short=100, epochs=50)


def sensing(dimension: int = 100, rank: int = 2, columns: int = 4, count: int = 1000) -> Ravine:
    """Return quadratic sensing with more columns than the rank of what is sought."""
    draw = _generator()
    planted, start, a, b = (
        torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape in ((dimension, rank), (columns * dimension,), (count, dimension), (count, dimension))
    )
    planted, start = planted / planted.norm(), start / start.norm()

    def seen(x: Tensor) -> Tensor:  # (dimension, r) -> (count,)
        return (a @ x).square().sum(1) - (b @ x).square().sum(1)

    y = seen(planted)
    f = lambda x: (seen(x.view(dimension, columns)) - y).square().mean()  # noqa: E731
    return Ravine(f=f, start=start, step=0.05, short=300, epochs=50)


def neurons(dimension: int = 100) -> Ravine:
    """Return the expected loss of two neurons that learn one."""
    w1, w2, v = torch.randn(3, dimension, generator=_generator(), dtype=torch.float64)

    def g(a: Tensor, b: Tensor) -> Tensor:
        p, q = a / a.norm(), b / b.norm()
        t = 2 * torch.atan2((p - q).norm(), (p + q).norm())  # exact also where acos <p, q> is not
        return a.norm() * b.norm() * (t.sin() - t * t.cos())

    def f(w: Tensor) -> Tensor:
        a, b = w.view(2, dimension)
        return (a + b - v).square().sum() / 4 + (g(a, b) - g(a, v) - g(b, v)) / (2 * pi)

    return Ravine(f=f, start=torch.cat([w1, w2]), step=1.5, short=100, epochs=25)


RAVINES = {"rosenbrock": rosenbrock, "sensing": sensing, "neurons": neurons}


def descend(ravine: Ravine, kind: str) -> Tensor:
    """Return f - min f before each gradient, (gradients,), by one of KINDS. Where min f is told, all steps are taken,
    as in the paper; where a bound that is BELOW lower is, rises are taken back (app/lower/polyak.py)."""
    known = kind != KINDS[3]
    short = {KINDS[0]: ravine.gradients, KINDS[1]: 0}.get(kind, ravine.short)
    x, values = ravine.start, []
    value, g = _at(ravine.f, x)
    epoch = polyak.begin(value if known else value + BELOW)
    for _ in range(ravine.gradients):
        values.append(float(value))
        if known:
            epoch = replace(epoch, gap=value, fallen=torch.zeros_like(value))
        long = polyak.is_long(epoch, short)
        trial = x - torch.where(long, polyak.long_step(epoch, g.square().sum()), ravine.step) * g
        new_value, new_g = _at(ravine.f, trial)
        accepted = torch.as_tensor(known) | (new_value <= value)
        epoch = polyak.settle(epoch, long, new_value - value, accepted)
        if accepted:
            x, value, g = trial, new_value, new_g
    return torch.tensor(values, dtype=torch.float64)


def _at(f: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = f(x)
    return value.detach(), torch.autograd.grad(value, x)[0]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
