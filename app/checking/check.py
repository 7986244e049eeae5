"""What a careful author would verify before believing a number, on one small image."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from app.checking import solves
from app.checking.curvature import largest_holds, modulus_holds, seen
from app.checking.derivatives import derivative_rows
from app.checking.finding import Finding, Rows, looked_at
from app.evaluation.guide import LowerProblem, lower_problem
from app.lower import lbfgs
from app.lower.energy import Solver
from app.lower.stationary import certified_or_stationary
from app.models.build import Model
from app.problem.problem import Problem, Sample
from app.training.fit import batch_of
from app.upper.method import Batch
from regularizers import Regularizer
from regularizers.conversion import converted


def check(
    learned: Regularizer | Model, problem: Problem, *, solver: Solver = lbfgs.solve, accuracy: float = 0.1
) -> tuple[Finding, ...]:
    """Return what is found of a regularizer on the first image of a problem, which should be small. Nothing is changed
    or printed.

    solver, accuracy: of the certificate. Of a regularizer with a guide, R(.; z) is looked at, and the R of the guide.
    Raises ProblemError, OperatorError or NoiseLevelError where the problem cannot be posed.
    """
    return tuple(findings(learned, problem, solver, accuracy))


def findings(learned: Regularizer | Model, problem: Problem, solver: Solver, accuracy: float) -> Iterator[Finding]:
    """Yield what `check` returns, one by one."""
    model = learned if isinstance(learned, Model) else Model(learned)
    model = deepcopy(model).to(problem.device, problem.dtype)
    sample, solve = problem.sample(0, 1), certified_or_stationary(solver)
    clean, kernel, regularizer = sample.target, model.kernel, model.regularizer.at(sample.noise_level)
    operator = sample.operator if kernel is None else kernel.operator(clean.shape[2:])
    lower = lower_problem(regularizer, operator, sample.y, problem.ridge, solve)
    rows = _operator_rows(lower, clean) | derivative_rows(lower.regularizer, clean) | _curvature_rows(lower, clean)
    if guide := regularizer.guide_at_level():
        of_guide = derivative_rows(guide, clean) | _curvature_rows(replace(lower, regularizer=guide), clean)
        rows |= {f"guide: {name}": look for name, look in of_guide.items()}
    rows["h: its terms"] = partial(solves.energy_derivatives, lower, clean.double())
    rows["stated bound: exact bound"] = partial(solves.certificate, lower, solve, accuracy, True)
    rows["stated bound: distance to a tighter solve"] = partial(solves.certificate, lower, solve, accuracy, False)
    batch = cache(partial(_exact_batch, model, problem, sample, solve))
    rows["hypergradient: residual of its solve"] = lambda: solves.adjoint_solve(batch(), solve, accuracy)
    rows["hypergradient: differences of the loss"] = lambda: solves.moved_losses(batch(), solve)
    yield from (looked_at(name, look) for name, look in rows.items())


def _operator_rows(lower: LowerProblem, clean: Tensor) -> Rows:  # (1, C, H, W)
    rows: Rows = {}
    exact = lower.exact()
    for name, a, x, y in (("", lower.operator, clean, lower.y), (" in float64", exact.operator, clean.double(), exact.y)):
        rows[f"A: <A x, y> = <x, A^T y>{name}"] = partial(solves.adjoint, a, x, y)
        rows[f"A: that of the solver{name}"] = partial(solves.normal, a, x, y)
    return rows


def _curvature_rows(lower: LowerProblem, clean: Tensor) -> Rows:  # (1, C, H, W)
    energy = cache(lower.exact)
    curvatures = cache(lambda: seen(energy(), clean.double()))
    return {
        "mu: smallest curvature": lambda: modulus_holds(energy(), curvatures()),
        "L: largest curvature": lambda: largest_holds(energy(), curvatures()),
    }


def _exact_batch(model: Model, problem: Problem, sample: Sample, solver: Solver) -> Batch:
    """The lower-level problem and its loss in float64."""
    kernel = None if model.kernel is None else converted(model.kernel, torch.float64)
    target = sample.target.double()
    exact = replace(
        sample, target=target, y=sample.y.to(torch.promote_types(sample.y.dtype, torch.float64)),
        operator=sample.operator.promoted(),
        loss=problem.loss(target, problem.noise_levels.weight(sample.noise_level)),
    )  # fmt: skip
    return batch_of(Model(model.regularizer.promoted(), kernel), exact, problem.ridge, solver)
