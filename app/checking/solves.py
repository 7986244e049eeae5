"""The operator, the energy, the certificate and the hypergradient of one lower-level problem."""

import torch
from torch import Tensor

from app.checking.finding import Finding, difference, rounding
from app.evaluation.guide import LowerProblem
from app.lower.energy import Energy, Operator, Solver
from app.lower.solution import NOT_CERTIFIED, norm
from app.upper.hypergradient import Hypergradient, hypergradient
from app.upper.method import Batch
from app.upper.theta import inner_product, length, move
from regularizers import AutogradFunctional

TIGHTER = 1e-3  # of the accuracy, for the solve that a certificate is compared with
TIGHT = 1e-9  # accuracy of the solves whose losses are subtracted
STEP, INEXACT = 1e-3, 1e-3  # of theta, and the relative error that STEP makes


def _random(like: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=draw, dtype=like.dtype.to_complex() if like.is_complex() else
                       torch.float64).to(like)  # fmt: skip


def _inner(a: Tensor, b: Tensor) -> float:
    a, b = (torch.view_as_real(t) if t.is_complex() else t for t in (a, b))
    return float((a.double() * b.double()).sum())


@torch.no_grad()
def adjoint(operator: Operator, x: Tensor, y: Tensor) -> Finding:  # (1, C, H, W), (1, ...)
    """Compare <A x, y> with <x, A^T y>, at y = A x, too, where neither is small."""
    worst = 0.0
    for seed in range(4):
        a, b = _random(x, seed), _random(y, seed + 9)
        forth = operator.forward(a)
        for b in (b, forth, forth.roll(1, -1), y):
            size = (_inner(forth, forth) * _inner(b, b)) ** 0.5
            worst = max(worst, abs(_inner(forth, b) - _inner(a, operator.adjoint(b))) / max(size, 1e-300))
    return Finding(measured=worst, limit=rounding(x.dtype))


@torch.no_grad()
def normal(operator: Operator, x: Tensor, y: Tensor) -> Finding:  # (1, C, H, W), (1, ...)
    """Compare what the solver uses, A^T A x and A^T (A x - y), with A and then A^T."""
    v = _random(x, 0)
    forth = operator.forward(v)
    found = operator.normal(v), operator.misfit_gradient(y)(v)
    return Finding(measured=difference(found, (operator.adjoint(forth), operator.adjoint(forth - y))),
                   limit=rounding(x.dtype))  # fmt: skip


def reference_gradient(problem: LowerProblem, x: Tensor) -> Tensor:  # (1, C, H, W)
    """Return A^T (A x - y) + dR/dx + ridge x in float64, dR/dx by autograd of the value."""
    operator, y = problem.operator.promoted(), problem.y.to(torch.promote_types(problem.y.dtype, torch.float64))
    r = AutogradFunctional.of(problem.regularizer.promoted()).gradient(x).detach()
    return operator.adjoint(operator.forward(x) - y) + r + problem.ridge * x


def energy_derivatives(problem: LowerProblem, x: Tensor) -> Finding:  # (1, C, H, W), float64
    """Compare gradient and Hessian product of h with those of its terms."""
    h, v = problem.exact(), _random(x, 0)
    x = x + 0.1 * _random(x, 1)
    normal = h.operator.adjoint(h.operator.forward(v))
    product = normal + AutogradFunctional.of(problem.regularizer.promoted()).hessian(x)(v) + problem.ridge * v
    with torch.no_grad():
        found = h.gradient(x), h.hessian(x)(v)
    expected = reference_gradient(problem, x), product
    return Finding(measured=difference(found, expected), limit=rounding(x.dtype))


def certificate(problem: LowerProblem, solver: Solver, accuracy: float, exact_bound: bool) -> Finding:
    """Compare what is stated of a solution with its exact bound ||grad h(x)|| / mu, or with the distance to a solution
    that is certified more tightly."""
    with torch.no_grad():
        h = problem.exact()
        if h.bounds[0] <= 0:
            return Finding(measured=None, note=NOT_CERTIFIED)
        found = problem.solve(solver, accuracy)
        x, stated = found.x.double(), float(found.error_bound)

        def bound(x: Tensor) -> float:
            return float(norm(reference_gradient(problem, x))) / h.bounds[0]

        if exact_bound:
            return Finding(measured=bound(x), limit=stated * (1 + rounding(torch.float64)))
        near = solver(h, x, TIGHTER * accuracy).x
        return Finding(measured=float(norm(x - near)), limit=stated + bound(near))


def adjoint_solve(batch: Batch, solver: Solver, accuracy: float) -> Finding:
    """Compare the residual of H q = grad loss, computed anew, with its tolerance."""
    h, z = _hypergradient(batch, solver, accuracy)
    with torch.no_grad():
        left = norm(h.hessian(z.lower.x)(z.linear.q) - batch.loss.gradient(z.lower.x))
    return Finding(measured=float(left.max()), limit=batch.loss.smoothness * accuracy * (1 + 1e-6))


def moved_losses(batch: Batch, solver: Solver) -> Finding:
    """Compare the hypergradient with differences of the loss through the whole solve, along it and at random."""
    h, z = _hypergradient(batch, solver, TIGHT)
    if h.bounds[0] <= 0:
        return Finding(measured=None, note=NOT_CERTIFIED)
    theta, size, worst = tuple(batch.learned.parameters()), length(z.gradient), 0.0

    def loss(start: Tensor) -> float:
        return float(batch.loss.value(solver(batch.energy(), start, TIGHT).x).mean())

    directions = [z.gradient, *(tuple(_random(p, seed) for p in theta) for seed in range(2))]
    for d in directions:
        d = tuple(t / length(d) for t in d)
        move(theta, d, -STEP)
        above = loss(z.lower.x)
        move(theta, d, 2 * STEP)
        moved = (above - loss(z.lower.x)) / (2 * STEP)
        move(theta, d, -STEP)
        worst = max(worst, abs(moved - inner_product(z.gradient, d)) / size)
    return Finding(measured=worst, limit=INEXACT)


def _hypergradient(batch: Batch, solver: Solver, accuracy: float) -> tuple[Energy, Hypergradient]:
    h = batch.energy()
    return h, hypergradient(batch.learned, h, batch.loss, solver, h.start, accuracy=accuracy)
