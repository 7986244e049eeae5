"""The two energies of a regularizer with a guide: one whose minimiser z completes the other."""

from collections.abc import Callable

from app.lower.energy import Energy, Functional, Solver
from app.lower.solution import LowerSolution
from regularizers import Regularizer

ACCURACY = 1e-3  # certified, in the root mean square over the pixels: a quarter of a grey level


def completed(
    regularizer: Regularizer, energy: Callable[[Functional], Energy], solve: Solver
) -> tuple[Regularizer, LowerSolution | None]:
    """The regularizer given z = argmin of the energy with its guide, and how z was found; itself without a guide."""
    guide = regularizer.guide_at_level()
    if guide is None:
        return regularizer, None
    first = energy(guide.frozen())
    found = solve(first, first.start, ACCURACY * first.start[0].numel() ** 0.5)
    return regularizer.conditioned_on(found.x), found
