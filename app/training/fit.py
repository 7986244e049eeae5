"""Learning in memory: one step of an upper-level method after the other.

    sample lower-level problems -> their energies at theta -> method.step moves theta

No folder, no files: what a run leaves on disk is written by run.py, which consumes these steps.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from itertools import count
from typing import Any

import torch

from app.evaluation.guide import LowerProblem, lower_problem
from app.lower import lbfgs
from app.lower.energy import Energy, Solver, bounds
from app.lower.solution import NotStronglyConvexError
from app.lower.stationary import certified_or_stationary
from app.models.build import Model
from app.problem.blur_kernel import SemiBlind
from app.problem.problem import Problem, ProblemError, Sample
from app.training.chain import Chain
from app.upper import hypergradient as core
from app.upper.hypergradient import Hypergradient, Learned
from app.upper.method import Batch, Cost, Method, Step
from app.upper.theta import copies
from regularizers import Regularizer, for_channels


def fit(
    learned: Regularizer | Model,
    problem: Problem,
    method: Method[Any],
    *,
    steps: int | None,
    first: int = 0,
    state: Any = None,
    solver: Solver = lbfgs.solve,
    certified: bool = True,
) -> Generator[Step, None, None]:
    """Learn in place, and yield what each step saw and did.

    learned: its parameters move from step to step.  steps: the number of the last step plus one; None: without end.
    first, state: where to go on.  solver: finds what a guide reconstructs.  certified: refuse a lower level that is not
    provably strongly convex. A loop that can be continued needs as many parameters; all but four have defaults.
    Raises ProblemError where the method cannot learn from this problem, NotStronglyConvexError, and NonFiniteError
    with the parameters as they were before the step.
    """
    model = (learned if isinstance(learned, Model) else Model(learned)).to(problem.device, problem.dtype)
    size = method.images_per_step(len(problem))
    if method.needs_finite_sum and not problem.patches.fixed:
        raise ProblemError(f"{type(method).__name__} works on a finite sum: crops and noise must be fixed")
    mu = proven_modulus(model, problem, size)
    if certified and method.needs_convexity and mu <= 0:
        raise NotStronglyConvexError(mu)
    state = method.begin(problem.patches.fixed) if state is None else state
    with problem.patches.reading_ahead():
        for k in count(first) if steps is None else range(first, steps):
            sample = problem.sample(k, size)
            batch = batch_of(model, sample, problem.ridge, solver, method.through_guide)
            step = method.step(k, batch, state)
            yield replace(step, target=sample.target, computations=batch.spent.computations + step.computations)


def energy_bounds(model: Model, problem: Problem, size: int | None = None) -> tuple[float, float]:
    """Return (mu, L) of the lower level on the images of the first step. Raises NonFiniteError."""
    operator = (
        problem.operator(0, size) if model.kernel is None else model.kernel.operator(problem.patches.shape(0)[1:])
    )
    return bounds(operator, model.regularizer.at(problem.noise_levels.at(0)).frozen(), problem.ridge)


def proven_modulus(model: Model, problem: Problem, size: int | None = None) -> float:
    """Return what of mu holds at every step: lambda_min of a blur kernel that is learned may become 0."""
    mu, _ = energy_bounds(model, problem, size)
    return mu if model.kernel is None else mu - model.kernel.operator(problem.patches.shape(0)[1:]).lambda_min


def hypergradient(
    regularizer: Regularizer, problem: Problem, *, accuracy: float = 0.1, solver: Solver = lbfgs.solve,
    through_guide: bool = False,
) -> Hypergradient:  # fmt: skip
    """Return d/dtheta of the mean loss over all images, with both solves to the accuracy, as estimated.

    accuracy: bound on ||x - argmin h||, and on the residual of the linear system in units of the loss's smoothness.
    through_guide: differentiate also what the regularizer is conditioned on (chain.py).
    Raises NotStronglyConvexError and CurvatureError.
    """
    model = Model(regularizer).to(problem.device, problem.dtype)
    batch = batch_of(model, problem.sample(0), problem.ridge, solver, through_guide)
    energy = batch.energy()
    return core.hypergradient(
        batch.learned, energy, batch.loss, solve=solver, start=energy.start, adjoint_start=None, accuracy=accuracy
    )


def batch_of(
    model: Model, sample: Sample, ridge: float, solver: Solver = lbfgs.solve, through_guide: bool = False
) -> Batch:
    """Return lower-level problems with the model's regularizer, and what is learned from them.

    What the regularizer is conditioned on is found here, once, and stays; with `through_guide` it follows theta.
    """
    kernel, solver, spent = model.kernel, certified_or_stationary(solver), Cost()
    grid = sample.target.shape[2:]
    operator = sample.operator if kernel is None else kernel.operator(grid)
    regularizer = for_channels(model.regularizer.at(sample.noise_level), sample.target.shape[1])

    def solved() -> LowerProblem:
        found = lower_problem(regularizer, operator, sample.y, ridge, solver)
        if found.guided is not None:
            spent.add(found.guided.iterations)
        return found

    lower = solved()
    theta, through = tuple(regularizer.parameters()), through_guide and lower.before is not None
    before = copies(theta) if through else ()

    def energy() -> Energy:
        if through and not all(map(torch.equal, theta, before)):
            return solved().energy()
        return (lower if kernel is None else replace(lower, operator=kernel.operator(grid))).energy()

    learned: Learned = Chain(lower, spent) if through else lower.regularizer
    if kernel is not None and kernel.logits.requires_grad:
        learned = SemiBlind(lower.regularizer, kernel, sample.y)
    return Batch(
        learned=learned, energy=energy, loss=sample.loss, images=sample.images, spent=spent,
        tolerance_factor=sample.tolerance_factor,
    )  # fmt: skip
