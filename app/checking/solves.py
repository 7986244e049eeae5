"""The operator, the terms of h, the certificate and the hypergradient of one lower-level problem."""

from math import inf

import torch
from torch import Tensor

from app.checking.finding import Finding, difference, rounding
from app.evaluation.guide import LowerProblem
from app.lower.energy import Operator, Solver
from app.lower.solution import NOT_CERTIFIED, norm
from app.upper.hypergradient import hypergradient
from app.upper.method import Batch
from app.upper.theta import Theta, inner_product, length, move
from regularizers import AutogradFunctional

TIGHTER = 1e-3  # of the accuracy, for the solve that a certificate is compared with
TIGHT = 1e-9  # accuracy of the solves whose losses are subtracted
STEPS, INEXACT = (1e-5, 1e-4, 1e-6), 1e-3  # of theta, and the relative error that a step and TIGHT may make


def random(like: Tensor, seed: int) -> Tensor:  # (B, ...)
    """Return normal numbers of the shape and type of a tensor."""
    dtype = torch.complex128 if like.is_complex() else torch.float64
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(like)


def _inner(a: Tensor, b: Tensor) -> float:
    a, b = (torch.view_as_real(t) if t.is_complex() else t for t in (a, b))
    return float((a.double() * b.double()).sum())


@torch.no_grad()
def adjoint(operator: Operator, x: Tensor, y: Tensor) -> Finding:  # (1, C, H, W), (1, ...)
    """Compare <A x, v> with <x, A^T v>: v at random, A x, and A x moved by a pixel, near which neither is small."""
    a, worst = random(x, 0), 0.0
    forth = operator.forward(a)
    for v in (random(y, 1), y, forth, forth.roll(1, -1)):
        error = abs(_inner(forth, v) - _inner(a, operator.adjoint(v)))
        worst = max(worst, error / max(float(forth.norm() * v.norm()), torch.finfo(x.dtype).tiny))
    return Finding(measured=worst, limit=rounding(x.dtype))


@torch.no_grad()
def normal(operator: Operator, x: Tensor, y: Tensor) -> Finding:  # (1, C, H, W), (1, ...)
    """Compare what solvers use, A^T A x and A^T (A x - y), with A and then A^T."""
    x = random(x, 0)
    forth = operator.forward(x)
    found = operator.normal(x), operator.misfit_gradient(y)(x)
    return Finding(
        measured=difference(found, (operator.adjoint(forth), operator.adjoint(forth - y))), limit=rounding(x.dtype)
    )


@torch.no_grad()
def promoted(operator: Operator, exact: Operator, x: Tensor) -> Finding:  # (1, C, H, W)
    """Compare A x with that of A in float64, which certificates rest on."""
    found, expected = operator.forward(x), exact.forward(x.double())
    return Finding(measured=difference((found,), (expected,)), limit=rounding(x.dtype))


def terms(problem: LowerProblem, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # 2 x (1, C, H, W), float64
    """Return A^T (A x - y) + dR/dx + ridge x, and the Hessian product with v of the same, R by autograd."""
    a, y = problem.operator.promoted(), problem.y.to(torch.promote_types(problem.y.dtype, torch.float64))
    r = AutogradFunctional.of(problem.regularizer.promoted())
    gradient = a.adjoint(a.forward(x) - y) + r.gradient(x).detach() + problem.ridge * x
    return gradient, a.adjoint(a.forward(v)) + r.hessian(x)(v) + problem.ridge * v


def energy(problem: LowerProblem, x: Tensor) -> Finding:  # (1, C, H, W), float64
    """Compare gradient and Hessian product of h with those of its terms, v at random and constant, which R ignores."""
    h, x, worst = problem.exact(), x + 0.1 * random(x, 1), 0.0
    for v in (random(x, 2), torch.ones_like(x)):
        with torch.no_grad():
            found = h.gradient(x), h.hessian(x)(v)
        worst = max(worst, difference(found, terms(problem, x, v)))
    return Finding(measured=worst, limit=rounding(x.dtype))


@torch.no_grad()
def certificate(problem: LowerProblem, solver: Solver, accuracy: float, by_solve: bool) -> Finding:
    """Compare what is stated of a solution with its exact bound ||grad h(x)|| / mu, or with the distance to a solution
    that is certified more tightly."""
    h = problem.exact()
    if h.bounds[0] <= 0:
        return Finding(measured=None, note=NOT_CERTIFIED)
    found = problem.solve(solver, accuracy)
    x, stated = found.x.double(), float(found.error_bound)
    near = solver(h, x, TIGHTER * accuracy).x if by_solve else x
    exact = float(norm(terms(problem, near, near)[0])) / h.bounds[0]
    if by_solve:
        return Finding(measured=float(norm(x - near)), limit=stated + exact)
    return Finding(measured=exact, limit=stated)


@torch.no_grad()
def adjoint_solve(batch: Batch, solver: Solver, accuracy: float) -> Finding:
    """Compare the residual of H q = grad loss, computed anew, with its tolerance."""
    h = batch.energy()
    z = hypergradient(batch.learned, h, batch.loss, solver, h.start, accuracy=accuracy)
    left = norm(h.hessian(z.lower.x)(z.linear.q) - batch.loss.gradient(z.lower.x))
    return Finding(measured=float(left), limit=batch.loss.smoothness * accuracy * (1 + rounding(left.dtype)))


@torch.no_grad()
def moved_losses(batch: Batch, solver: Solver) -> Finding:
    """Compare the hypergradient with differences of the loss through the whole solve, along it and at random."""
    h, theta, errors = batch.energy(), tuple(batch.learned.parameters()), []
    if h.bounds[0] <= 0:
        return Finding(measured=None, note=NOT_CERTIFIED)
    z = hypergradient(batch.learned, h, batch.loss, solver, h.start, accuracy=TIGHT)

    def error(d: Theta, step: float) -> float:
        losses = []
        for along in (-step, 2 * step):
            move(theta, d, along / length(d))
            losses.append(float(batch.loss.value(solver(batch.energy(), z.lower.x, TIGHT).x)))
        move(theta, d, -step / length(d))
        moved = (losses[0] - losses[1]) / (2 * step)
        return abs(moved - inner_product(z.gradient, d) / length(d)) / length(z.gradient)

    for d in (z.gradient, *(tuple(random(p, seed) for p in theta) for seed in range(2))):
        best = inf
        for step in STEPS:  # between two points a response may pass a kink; a fault is seen with all steps
            best = min(best, error(d, step))
            if best <= INEXACT:
                break
        errors.append(best)
    return Finding(measured=max(errors), limit=INEXACT)
