"""What a potential phi(t; w, s) is: an even function of a filter response t with weight w > 0 and smoothing s > 0.

Responses are (B, K, H, W), w and s are (K, 1, 1). A potential whose shape is learned has further parameters a_1, ...,
a_J, which follow w and s wherever derivatives by parameters are listed. Potentials of several responses together are in
groups.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

Elementwise = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Kink:
    """A place where derivatives of phi jump: at |t| = place, by the sizes jumps = (phi'', d phi' / dw, d phi' / ds).
    Derivatives by the shape do not jump."""

    place: Tensor
    jumps: tuple[Tensor | float, Tensor | float, Tensor | float]


@dataclass(frozen=True)
class Variation:
    """Bounds for |t| in [low, high]: sup |phi''|, and Lipschitz constants between kinks of phi'' and of the derivatives
    of phi' by the parameters."""

    lipschitz: tuple[Tensor, ...]
    curvature: Tensor


@dataclass(frozen=True, kw_only=True)
class Potential:
    """A potential phi and what the bilevel problem needs of it; every function takes (t, w, s).

    What bounds and proofs rest on has no default: nothing is taken for convex or smooth because somebody forgot it.
    """

    name: str
    value: Elementwise
    influence: Elementwise  # (d phi / dt) / w: the weight is cheaper applied to filters than to responses
    curvature: Elementwise  # d2 phi / dt2
    derivatives_by_parameters: tuple[Elementwise, ...]  # d2 phi / dt dw, d2 phi / dt ds, ...
    slopes_by_parameters: tuple[Elementwise, ...]  # d phi / dw, d phi / ds, ...
    variation: Callable[[Tensor, Tensor, Tensor, Tensor], Variation]  # (low, high, w, s)
    largest_curvature: Callable[[Tensor, Tensor], Tensor]  # (w, s) -> max_t phi''
    weak_convexity: Callable[[Tensor, Tensor], Tensor]  # (w, s) -> -min_t phi'', 0 if convex
    budgeted: bool = False  # -min_t phi'' <= 1 for all w and s: the bank alone decides how weakly convex R is
    smoothing: Callable[[Tensor, Tensor], Tensor] = lambda w, unconstrained: unconstrained.exp()  # s in its range
    kinks: Callable[[Tensor, Tensor], list[Kink]]  # (w, s)
    shape: Tensor | None = None  # (K, J), a_1 ... a_J of every filter
    size: ClassVar[int] = 1  # responses that it is a function of

    def hessian(self, t: Tensor, w: Tensor, s: Tensor) -> Callable[[Tensor], Tensor]:
        """Return y -> phi''(t) y."""
        return self.curvature(t, w, s).mul

    def mixed(self, t: Tensor, y: Tensor, w: Tensor, s: Tensor) -> Iterator[Tensor]:
        """Yield <d phi' / dw, y>, <d phi' / ds, y>, ..."""
        return (derivative(t, w, s) * y for derivative in self.derivatives_by_parameters)

    def slopes(self, t: Tensor, w: Tensor, s: Tensor) -> Iterator[Tensor]:
        """Yield d phi / dw, d phi / ds, ..."""
        return (slope(t, w, s) for slope in self.slopes_by_parameters)


def smoothing_below(w: Tensor, unconstrained: Tensor) -> Tensor:
    """Return s in (0, w)."""
    return w / (1 + unconstrained.exp())
