"""A learned potential: phi(t) = w s psi(t / s), psi even and psi' piecewise linear with knots tau_1 < ... < tau_J
(the learned activations of arXiv 2211.12461 and 2308.10542, here a mixture of Hubers).

    psi''(z) = a_j  for tau_{j-1} <= |z| < tau_j  (tau_0 = 0),  0 beyond tau_J
    psi'(z) = sum_j b_j clip(z, -tau_j, tau_j),  b_j = a_j - a_{j+1}  (a_{J+1} = 0)

The curvatures a are what is learned, one row for all filters or one per filter:

    spline        a_j = exp(raw_j) >= 0          convex, as `charbonnier` at first; w and s free
    weak_spline   a_j = exp(raw_j) - 1 >= -1     w = s, so that phi'' = psi'' >= -1: budgeted, as `mcp` at first
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regularizers.foe.potential import Elementwise, Kink, Potential, Variation

KNOTS = tuple(0.02 * 100 ** (j / 11) for j in range(12))  # tau_1 ... tau_J, from 1/50 to 2
INTERVALS = tuple(zip((0.0, *KNOTS), KNOTS, strict=False))
LEAST = 0.02  # a_j starts at least so far above its bound: below, the exponential would hardly move


@dataclass(frozen=True)
class LearnedPotential:
    """A family of potentials, with one member for each shape."""

    name: str
    budgeted: bool
    initial_slope: Callable[[Tensor, float, float], Tensor]  # (z, weight, smoothing) -> psi'(z) to start from

    @property
    def lowest(self) -> float:
        """The lower bound of every a_j."""
        return -1.0 if self.budgeted else 0.0

    def initial(self, weight: float, smoothing: float) -> Tensor:  # -> (J,)
        """Return the unconstrained shape to start from: a_j is the mean of psi'' between its knots."""
        knots = torch.tensor((0.0, *KNOTS), dtype=torch.float64)
        means = self.initial_slope(knots, weight, smoothing).diff() / knots.diff()
        return (means - self.lowest).clamp(min=LEAST).log().to(torch.get_default_dtype())

    def at(self, raw: Tensor) -> Potential:  # (K, J)
        """Return the potential of an unconstrained shape."""
        return spline(self.lowest + raw.exp(), self.budgeted)


def spline(shape: Tensor, budgeted: bool) -> Potential:
    """Return phi for curvatures a = shape (K, J). Most of the lines are the record of its functions."""
    a = tuple(shape.unsqueeze(-1).unsqueeze(-1).unbind(1))  # J of (K, 1, 1)
    b = tuple(here - after for here, after in zip(a, (*a[1:], torch.zeros_like(a[0])), strict=True))
    zero = torch.zeros_like(a[0])

    def mixture(hubers: Callable[[Tensor, float], Tensor], z: Tensor) -> Tensor:
        return sum((weight * hubers(z, knot) for weight, knot in zip(b, KNOTS, strict=True)), torch.zeros_like(z))

    def second(z: Tensor) -> Tensor:  # psi''
        d, z = torch.zeros_like(z), z.abs()
        for curvature, knot in zip(reversed(a), reversed(KNOTS), strict=True):
            d = torch.where(z < knot, curvature, d)
        return d

    def variation(low: Tensor, high: Tensor, w: Tensor, s: Tensor) -> Variation:
        met = [(low <= knot * s) & (high >= before * s) for before, knot in INTERVALS]
        steepest = torch.stack([m * c.abs() for m, c in zip(met, a, strict=True)]).amax(0)
        by_shape = tuple(m * (w / s) for m in met)
        return Variation((zero, steepest / s, steepest * w / s.square(), *by_shape), steepest * w / s)

    return Potential(
        name="spline",
        value=lambda t, w, s: w * s * mixture(_huber, t / s),
        influence=lambda t, w, s: mixture(_clip, t / s),
        curvature=lambda t, w, s: (w / s) * second(t / s),
        derivatives_by_parameters=(
            lambda t, w, s: mixture(_clip, t / s),
            lambda t, w, s: -(w / s.square()) * t * second(t / s),
            *(_difference(_clip, *interval, 0) for interval in INTERVALS),
        ),
        slopes_by_parameters=(
            lambda t, w, s: s * mixture(_huber, t / s),
            lambda t, w, s: w * (mixture(_huber, t / s) - t / s * mixture(_clip, t / s)),
            *(_difference(_huber, *interval, 1) for interval in INTERVALS),
        ),
        largest_curvature=lambda w, s: (w / s) * shape.amax(1).clamp(min=0).view_as(w),
        weak_convexity=lambda w, s: (w / s) * (-shape.amin(1)).clamp(min=0).view_as(w),
        budgeted=budgeted,
        smoothing=lambda w, unconstrained: w.clone() if budgeted else unconstrained.exp(),  # files hold no aliases
        variation=variation,
        kinks=lambda w, s: [
            Kink(knot * s, (w / s * c.abs(), 0.0, w / s * knot * c.abs())) for c, knot in zip(b, KNOTS, strict=True)
        ],
        shape=shape,
    )


def _clip(z: Tensor, knot: float) -> Tensor:
    return z.clamp(-knot, knot)


def _huber(z: Tensor, knot: float) -> Tensor:  # its integral
    clipped = _clip(z, knot)
    return clipped * (z - clipped / 2)


def _difference(f: Callable[[Tensor, float], Tensor], before: float, knot: float, power: int) -> Elementwise:
    """Return the derivative of w s^power sum_j b_j f(t / s, tau_j) by a_j: b_j and b_{j-1} = a_{j-1} - a_j hold it."""
    return lambda t, w, s: w * s**power * (f(t / s, knot) - f(t / s, before))


SPLINE = LearnedPotential("spline", False, lambda z, weight, smoothing: z / (1 + z.square()).sqrt())  # charbonnier
WEAK_SPLINE = LearnedPotential(
    "weak_spline", True, lambda z, weight, smoothing: (weight / smoothing * z).clamp(-1, 1) - z.clamp(-1, 1)
)  # mcp
