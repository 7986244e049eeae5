"""What a careful author would verify before believing a number, on one small image."""

from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from app.checking import solves
from app.checking.curvature import curvature_rows, operator_rows
from app.checking.derivatives import derivative_rows
from app.checking.finding import Finding, Rows, looked_at
from app.evaluation.guide import lower_problem
from app.lower import lbfgs
from app.lower.energy import Solver
from app.lower.stationary import certified_or_stationary
from app.models.build import Model, learned_model
from app.problem.problem import Problem, Sample
from app.training.fit import batch_of
from app.upper.method import Batch
from regularizers import Regularizer, for_channels
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
    model = deepcopy(learned_model(learned)).to(problem.device, problem.dtype)
    sample, solve = problem.sample(0, 1), certified_or_stationary(solver)
    clean, kernel = sample.target, model.kernel
    regularizer = for_channels(model.regularizer.at(sample.noise_level), clean.shape[1])
    operator = sample.operator if kernel is None else kernel.operator(clean.shape[2:])
    lower, rows = lower_problem(regularizer, operator, sample.y, problem.ridge, solve), Rows()
    h, exact = lower.exact(), clean.double()
    for a, x, y in ((operator, clean, sample.y), (h.operator, exact, h.y)):
        kind = str(x.dtype).removeprefix("torch.")
        rows[f"A in {kind}: <A x, y> = <x, A^T y>"] = partial(solves.adjoint, a, x, y)
        rows[f"A in {kind}: that of the solver"] = partial(solves.normal, a, x, y)
    rows["A: the same in float64"] = partial(solves.promoted, operator, h.operator, clean)
    rows |= operator_rows(h.operator, exact) | derivative_rows(lower.regularizer, clean) | curvature_rows(h, exact)
    if guide := regularizer.guide_at_level():
        of_guide = derivative_rows(guide, clean) | curvature_rows(replace(lower, regularizer=guide).exact(), exact)
        rows |= {f"guide: {name}": look for name, look in of_guide.items()}
    rows["h: its terms"] = partial(solves.energy, lower, exact)
    rows["stated bound: exact bound"] = partial(solves.certificate, lower, solve, accuracy, False)
    rows["stated bound: distance to a tighter solve"] = partial(solves.certificate, lower, solve, accuracy, True)
    batch = cache(partial(_exact_batch, model, problem, sample, solve))
    rows["hypergradient: residual of its solve"] = lambda: solves.adjoint_solve(batch(), solve, accuracy)
    rows["hypergradient: differences of the loss"] = lambda: solves.moved_losses(batch(), solve)
    yield from (looked_at(name, look) for name, look in rows.items())


def _exact_batch(model: Model, problem: Problem, sample: Sample, solver: Solver) -> Batch:
    """The lower-level problem and its loss in float64."""
    kernel, loss = model.kernel, copy(sample.loss)
    vars(loss).update({name: t.double() for name, t in vars(loss).items() if isinstance(t, Tensor)})
    exact = replace(
        sample, y=sample.y.to(torch.promote_types(sample.y.dtype, torch.float64)), target=sample.target.double(),
        operator=sample.operator.promoted(), loss=loss,
    )  # fmt: skip
    promoted = Model(model.regularizer.promoted(), None if kernel is None else converted(kernel, torch.float64))
    return batch_of(promoted, exact, problem.ridge, solver)
