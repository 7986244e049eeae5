"""A recording of a training step: played back, it leaves only the work of the solvers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from app.lower.energy import Functional


@dataclass
class Tape:
    """Results of passes over the filters in the order of the calls, and the number of images of each kind of pass.

    Played back, they are returned in this order, as often as wanted.
    """

    results: list[Any] = field(default_factory=list)
    images: Counter[str] = field(default_factory=Counter)
    played: int | None = None  # None while recording

    def rewind(self) -> None:
        self.played = 0

    def run(self, name: str, f: Callable[..., Any], x: Tensor, *rest: Tensor) -> Any:
        """Compute and record f(x, *rest), or return the recorded result."""
        if self.played is None:
            self.images[name] += len(x)
            self.results.append(f(x, *rest))
            return _copy(self.results[-1])
        self.played += 1
        return _copy(self.results[self.played - 1])


def _copy(result: Any) -> Any:
    """Copy a result, because callers may work in place."""
    if isinstance(result, tuple):
        return tuple(map(_copy, result))
    return result.clone() if isinstance(result, Tensor) else result


@dataclass(frozen=True)
class Taped:
    """A functional whose passes over the filters are recorded on the tape or played back from it."""

    functional: Functional
    tape: Tape

    def value(self, x: Tensor) -> Tensor:
        return self.functional.value(x)

    def gradient(self, x: Tensor) -> Tensor:
        return self.tape.run("gradient", self.functional.gradient, x)

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        product = self.tape.run("Hessian", self.functional.hessian, x)
        return lambda v: self.tape.run("product", product, v)

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.tape.run("curvature model", self.functional.curvature_model, x)

    def curvature(self) -> tuple[float, float]:
        return self.functional.curvature()

    def take(self, images: Tensor) -> Taped:
        return Taped(self.functional.take(images), self.tape)
