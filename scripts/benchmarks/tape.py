"""A step played back from a recording: what is left is the work of its solvers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from app.lower.energy import Functional


@dataclass
class Tape:
    """Results of passes over the filters in the order of the calls, and how many images each kind of pass was for.

    Played back, they are handed out as often as wanted, in this order, to whoever computes the same from them.
    """

    results: list[Any] = field(default_factory=list)
    images: Counter[str] = field(default_factory=Counter)
    played: int | None = None  # None while recording

    def rewind(self) -> None:
        self.played = 0

    def run(self, name: str, f: Callable[..., Any], x: Tensor, *rest: Tensor) -> Any:
        """Return f(x, *rest), or, played back, what it was."""
        if self.played is None:
            self.images[name] += len(x)
            self.results.append(f(x, *rest))
            return _copy(self.results[-1])
        self.played += 1
        return _copy(self.results[self.played - 1])


def _copy(result: Any) -> Any:
    """Return a copy, since callers may work in place."""
    if isinstance(result, tuple):
        return tuple(map(_copy, result))
    return result.clone() if isinstance(result, Tensor) else result


@dataclass(frozen=True)
class Taped:
    """A functional whose passes over the filters go through the tape."""

    functional: Functional
    tape: Tape

    def __getattr__(self, name: str):
        return getattr(self.functional, name)

    def gradient(self, x: Tensor) -> Tensor:
        return self.tape.run("gradient", self.functional.gradient, x)

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        product = self.tape.run("Hessian", self.functional.hessian, x)
        return lambda v: self.tape.run("product", product, v)

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        return self.tape.run("curvature model", self.functional.curvature_model, x)

    def take(self, images: Tensor) -> Taped:
        return Taped(self.functional.take(images), self.tape)
