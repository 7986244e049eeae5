"""Learning in memory: one step of an upper-level method after the other.

    sample lower-level problems -> their energies at theta -> method.step moves theta

No folder, no files: what a run leaves on disk is written by run.py, which consumes these steps.
"""

from __future__ import annotations

from collections.abc import Generator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch

from app.evaluation.guide import LowerProblem, lower_problem
from app.evaluation.reconstructor import check_accuracy
from app.lower import lbfgs
from app.lower.energy import Energy, Solver, bounds
from app.lower.solution import NotStronglyConvexError
from app.lower.stationary import certified_or_stationary
from app.models.build import Model, learned_model
from app.problem.blur_kernel import SemiBlind
from app.problem.operators import Operator, within
from app.problem.problem import Problem, ProblemError, Sample
from app.processes import ALONE, Processes
from app.training.chain import Chain
from app.upper import hypergradient as core
from app.upper.hypergradient import Hypergradient, Learned
from app.upper.method import Batch, Cost, Method, Step
from app.upper.share import Share, own_places, shared
from app.upper.state import settle
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
    processes: Processes = ALONE,
) -> Generator[Step, None, None]:
    """Learn in place, and yield what each step saw and did.

    learned: its parameters move from step to step.  steps: the number of the last step plus one; None: without end.
    first, state: where to go on.  solver: finds what a guide reconstructs.  certified: refuse a lower level that is not
    provably strongly convex; if False, the method's own solver goes on to stationary points.  processes: share every
    mini-batch; all take the same steps. A loop that can be continued needs as many parameters; all but four have
    defaults.
    Parameters that are frozen (`requires_grad_(False)`) stay. Raises RegularizerError, ProblemError where the method
    cannot learn from this problem, NotStronglyConvexError, and NonFiniteError with the parameters as they were before
    the step.
    """
    model = learned_model(learned).to(problem.device, problem.dtype)
    if not any(p.requires_grad for p in model.parameters()):
        raise ProblemError(f"{type(model.regularizer).__name__} has no parameters, or all are frozen: nothing to learn")
    if isinstance(method, type | str):
        raise ProblemError(f"{method!r} is no method: give an object, such as Isgd(batch_size=8)")
    size = method.images_per_step(len(problem))
    if method.needs_finite_sum and not problem.patches.fixed:
        raise ProblemError(f"{type(method).__name__} works on a finite sum: crops and noise must be fixed")
    if size < 1:
        raise ProblemError("a step needs at least one image: batch_size must be at least 1")
    if size < processes.count:
        raise ProblemError(f"{processes.count} processes cannot share the {size} images of a step")
    mu = proven_modulus(model, problem, size)
    if certified and method.needs_convexity and mu <= 0:
        raise NotStronglyConvexError(mu)
    if not certified and (solve := getattr(method, "solve", None)) is not None:
        method = replace(method, solve=certified_or_stationary(solve))  # type: ignore[type-var]
    state = method.begin(problem.patches.fixed) if state is None else state
    with problem.patches.reading_ahead():
        for k in count(first) if steps is None else range(first, steps):
            images, _ = problem.patches.places(k, size)
            share = shared(images, processes)
            settle(state, images, share)
            with torch.autocast(problem.device.type, enabled=False):
                sample = problem.sample(k, size, partial(own_places, processes=processes))
                batch = batch_of(model, sample, problem.ridge, solver, method.through_guide, share)
                step = method.step(k, batch, state)
            yield _of_all(step, sample, batch)


def _of_all(step: Step, sample: Sample, batch: Batch) -> Step:
    """The step with the numbers of the whole mini-batch, and its cost."""
    share, names = batch.share, ("loss", "error_bound", "certified", "lower_iterations", "linear_iterations")
    numbers = {name: share.gather(getattr(step, name)) for name in names}
    computations = share.count(batch.spent.computations + step.computations)
    return replace(step, **numbers, computations=computations, target=sample.target, share=share)


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
    The regularizer stays as it is: where the problem has another precision or device, its copy there is used. Warns of
    a hypergradient that is zero. Raises RegularizerError, OperatorError, NotStronglyConvexError and CurvatureError.
    """
    check_accuracy(accuracy)
    model, fits = learned_model(regularizer), {(problem.dtype, problem.device)}
    if any((p.dtype, p.device) not in fits for p in regularizer.parameters()):
        model = deepcopy(model).to(problem.device, problem.dtype)
    with torch.autocast(problem.device.type, enabled=False):
        batch = batch_of(model, problem.sample(0), problem.ridge, solver, through_guide)
        energy = batch.energy()
        z = core.hypergradient(batch.learned, energy, batch.loss, solve=solver, start=energy.start, accuracy=accuracy)
    core.warn_of_zero(z)
    return z


def batch_of(
    model: Model, sample: Sample, ridge: float, solver: Solver = lbfgs.solve, through_guide: bool = False,
    share: Share | None = None,
) -> Batch:  # fmt: skip
    """Return lower-level problems with the model's regularizer, and what is learned from them.

    share: whose images the sample has, where it is not the whole mini-batch.

    What the regularizer is conditioned on is found here, once, and stays; with `through_guide` it follows theta.
    """
    kernel, solver, spent, share = model.kernel, certified_or_stationary(solver), Cost(), share or Share()
    grid = sample.target.shape[2:]
    operator = _bounded_for_all(sample.operator, share) if kernel is None else kernel.operator(grid)
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
        tolerance_factor=sample.tolerance_factor, share=share,
    )  # fmt: skip


def _bounded_for_all(operator: Operator, share: Share) -> Operator:
    """The operator with bounds that hold for the images of all processes: step sizes depend on them."""
    low, high = (share.processes.numbers(bound) for bound in (operator.lambda_min, operator.norm_squared))
    return within(operator, min(low), max(high))
