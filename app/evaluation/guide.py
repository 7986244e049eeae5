"""The lower-level problem of a regularizer: its energy, and before it that of its guide, where it has one.

An adaptive regularizer R(x; z) is conditioned on z, the minimiser of the energy with its guide. z is found first, and
does not change while x is sought. x may be the next z: a chain of problems, of which each is certified given what the
one before found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.lower.certificate import certified_solve
from app.lower.energy import Energy, Operator, Solver
from app.lower.solution import LowerSolution
from regularizers import Regularizer

ACCURACY = 1e-3  # in the root mean square over the pixels: a quarter of a grey level


@dataclass(frozen=True, kw_only=True)
class LowerProblem:
    """h(x) = 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2 for a regularizer that is conditioned on what it needs."""

    regularizer: Regularizer
    operator: Operator
    y: Tensor
    ridge: float
    before: LowerProblem | None = None  # the guide's, or that of the last update
    guided: LowerSolution | None = None  # what was found there; the gradients are those of all problems before

    def energy(self) -> Energy:
        """Return h at the present parameters of the regularizer; it starts from what the guide found."""
        energy = Energy(self.operator, self.regularizer.frozen(), self.y, self.ridge)
        return energy if self.guided is None else replace(energy, guess=self.guided.x)

    def followed_by(self, regularizer: Regularizer, solver: Solver) -> LowerProblem:
        """Return the problem of a regularizer, conditioned on the minimiser of this one, which `solver` finds."""
        h, z = self.energy(), self.guided
        found = solver(h, h.start, ACCURACY * h.start[0].numel() ** 0.5)
        if z is not None:
            found = replace(found, converged=z.converged & found.converged, iterations=z.iterations + found.iterations)
        return replace(self, regularizer=regularizer.conditioned_on(found.x), before=self, guided=found)

    def exact(self) -> Energy:
        """Return h in float64: the numbers that it is made of stay what they are."""
        y = self.y.to(torch.promote_types(self.y.dtype, torch.float64))
        return Energy(self.operator.promoted(), self.regularizer.promoted().frozen(), y, self.ridge)

    def solve(self, solver: Solver, accuracy: float, dtype: torch.dtype | None = None) -> LowerSolution:
        """Return argmin h, certified in this type of number or that of y, from A^T y or the guide's z: nothing but its
        measurement decides on a result. The gradients of the guide count, too, and so does whether it converged; the
        error bound holds given its z."""
        found = certified_solve(solver, self.energy, self.exact, accuracy, dtype or self.y.real.dtype)
        if (z := self.guided) is None:
            return found
        return replace(found, converged=z.converged & found.converged, iterations=z.iterations + found.iterations)


def lower_problem(
    regularizer: Regularizer, operator: Operator, y: Tensor, ridge: float, solver: Solver
) -> LowerProblem:  # y (B, ...)
    """Return the problem of a regularizer, the last of its chain where it has a guide. `solver` finds all before."""
    guide = regularizer.guide_at_level()
    problem = LowerProblem(regularizer=guide or regularizer, operator=operator, y=y, ridge=ridge)
    for _ in range(0 if guide is None else regularizer.updates):
        problem = problem.followed_by(regularizer, solver)
    return problem


def condition_of(regularizer: Regularizer) -> str:
    """Return what a certificate presupposes, in words: that of a chain is for its last link. '' where it is nothing."""
    if regularizer.guide_at_level() is None:
        return ""
    before = "the guide's result" if regularizer.updates == 1 else f"the result of update {regularizer.updates - 1}"
    return f" given {before}"
