"""What can be said of an energy that is not provably strongly convex: that its gradient is small, and nothing more."""

from dataclasses import replace

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
from app.lower.solution import LowerSolution

SHARE = 1e-3  # of L: curvature below which a solver learns nothing from a pair, and its patience


def certified_or_stationary(solve: Solver) -> Solver:
    """Return a solver that is `solve` where mu > 0.

    Elsewhere it finds x with ||grad h(x)|| <= accuracy (lambda_min + ridge), the modulus h would have without R; or
    <= accuracy, where that sum is 0. The error bound is infinite, and no image has converged.
    """

    def either(energy: Energy, start: Tensor, accuracy: float) -> LowerSolution:
        assumed = with_modulus(energy).assumed
        if assumed is None:
            return solve(energy, start, accuracy)
        found = solve(with_modulus(energy), start, accuracy * _modulus(energy) / assumed)
        return replace(
            found,
            error_bound=torch.full_like(found.error_bound, torch.inf),
            converged=torch.zeros_like(found.converged),
        )

    return either


def with_modulus(energy: Energy) -> Energy:
    """Return `energy` itself where mu > 0, elsewhere with a modulus that is assumed, not proven: solvers and
    preconditioners can work with that."""
    mu, largest = energy.bounds
    return energy if mu > 0 else replace(energy, assumed=min(_modulus(energy), SHARE * largest))


def _modulus(energy: Energy) -> float:
    return (energy.operator.lambda_min + energy.ridge) or 1.0
