"""A learned regularizer as a deepinv reconstructor: model(y, physics) -> x, beside deepinv's own models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import deepinv
from deepinv.utils import TensorList
from torch import Tensor

from app.evaluation.noise_check import Learned, learned_levels
from app.evaluation.reconstructor import Measuring, reconstruct
from app.lower import lbfgs
from app.lower.energy import Solver
from app.lower.solution import LowerSolution
from app.models.files import load_regularizer
from app.problem.operators import OperatorError, noise_level_of
from app.scale import FAR, brightness_fault
from regularizers import Regularizer


class LearnedReconstructor(deepinv.models.Reconstructor):
    """x = argmin 1/2 ||A x - y||^2 + R(x) + ridge/2 ||x||^2, to a certified accuracy.

    regularizer: R, a `deepinv.optim.Prior`.  ridge: at test time as in training.  accuracy: bound on ||x - argmin h||.
    facts: what is known about the making of the model.  The noise level of a regularizer for many levels is read from
    the physics; one for a single level is used as it is. learned: the levels it was learned at; others are warned of.
    """

    def __init__(
        self,
        regularizer: Regularizer,
        *,
        ridge: float = 0.0,
        accuracy: float = 0.1,
        solver: Solver = lbfgs.solve,
        facts: dict[str, Any] | None = None,
        learned: Learned | None = None,
    ) -> None:
        super().__init__()
        self.regularizer, self.ridge, self.accuracy, self.solver = regularizer, ridge, accuracy, solver
        self.facts, self.learned = facts or {}, learned
        self.eval()

    def forward(
        self, y: Tensor | TensorList, physics: Measuring, *, noise_level: float | None = None,
        accuracy: float | None = None, **kwargs: Any,
    ) -> Tensor:  # (B, ...) -> (B, C, H, W)  # fmt: skip
        """Return the reconstructions, as `solution` does. kwargs: what deepinv gives to every model, and none reads.
        x carries no gradient. Raises OperatorError or NoiseLevelError."""
        return self.solution(y, physics, noise_level=noise_level, accuracy=accuracy).x

    def solution(
        self, y: Tensor | TensorList, physics: Measuring, *, noise_level: float | None = None,
        accuracy: float | None = None,
    ) -> LowerSolution:  # (B, ...)  # fmt: skip
        """Return the reconstructions with their certificates. noise_level, accuracy: None for those of the physics and
        of the model. Raises OperatorError or NoiseLevelError."""
        for own in physics if isinstance(physics, Sequence) else (physics,):
            self._check_level(getattr(own, "physics", own), noise_level)
        found = reconstruct(
            self.regularizer, y, physics, ridge=self.ridge, solver=self.solver, noise_level=noise_level,
            accuracy=self.accuracy if accuracy is None else accuracy,
        )  # fmt: skip
        if (brightest := float(found.x.amax())) > FAR:  # an image may be dark
            warnings.warn(f"images are on the scale [0, 1], and here {brightness_fault(brightest)}", stacklevel=3)
        return found

    def _check_level(self, physics: object, level: float | None) -> None:
        with suppress(OperatorError):  # of other noise there is no level
            level = noise_level_of(physics) if level is None else level
        if self.learned and level and (fault := self.learned.fault(level)):
            warnings.warn(f"this model {fault}", stacklevel=4)


def load(spec: str | Path, *, regularizer: Regularizer | None = None, accuracy: float = 0.1) -> LearnedReconstructor:
    """Return a shipped model by name, a run folder's, or a file that `save` wrote, ready to reconstruct.

    regularizer: built like the one that was saved, where its class is not defined yet.  accuracy: bound on
    ||x - argmin h||. Raises ModelError.
    """
    found, ridge, facts = load_regularizer(spec, regularizer)
    learned = None if regularizer else learned_levels(str(spec))
    return LearnedReconstructor(found, ridge=ridge, accuracy=accuracy, facts=facts, learned=learned)
