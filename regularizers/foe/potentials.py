"""Potentials phi(t; w, s): even functions of a filter response t with weight w > 0 and smoothing s > 0.

Each is one frozen record of pure, elementwise functions. Responses are (B, K, H, W), w and s are (K, 1, 1).

    charbonnier   w (sqrt(t^2 + s^2) - s)            convex,  0 <= phi'' <= w / s
    huber         w H_s(t)                           convex,  0 <= phi'' <= w / s
    mcp           w (H_s(t) - H_w(t)),  s < w        weakly convex, -1 <= phi'' <= w / s - 1
    log           w s / 2 log(1 + t^2 / s^2)         weakly convex, -w / (8 s) <= phi'' <= w / s
    spline, weak_spline: learned, in regularizers/foe/spline.py

with H_a(t) = t^2 / (2 a) for |t| <= a and |t| - a / 2 beyond. `mcp` is the smoothed minimax concave penalty (Zhang,
Annals of Statistics 2010): quadratic for |t| <= s, curvature exactly -1 up to |t| = w, constant beyond. In the
parameters of Goujon et al. (arXiv 2308.10542), alpha = 1 / w and beta = w / s. `log` is the potential of Student's t
(Roth and Black, IJCV 2009), scaled like its neighbours: curvature w / s at 0, slopes of at most w / 2.
"""

import copyreg
from collections.abc import Callable

import torch
from torch import Tensor

from regularizers.foe.potential import Kink, Potential, Variation, smoothing_below
from regularizers.foe.spline import SPLINE, WEAK_SPLINE, LearnedPotential


def _charbonnier_scale(t: Tensor, s: Tensor) -> Tensor:  # 1 / sqrt(t^2 + s^2)
    return torch.addcmul(s.square(), t, t).rsqrt_()


def _inside(t: Tensor, a: Tensor) -> Tensor:
    return (t.abs() < a).to(t.dtype)


def _clip(t: Tensor, a: Tensor) -> Tensor:  # clip(t / a, -1, 1)
    return (t * (1 / a)).clamp_(-1, 1)


def _huber(t: Tensor, a: Tensor) -> Tensor:  # H_a(t)
    clipped = t.clamp(-a, a)
    return clipped * (t - clipped / 2) / a


def _charbonnier_variation(low: Tensor, high: Tensor, w: Tensor, s: Tensor) -> Variation:
    steepest = torch.maximum(torch.minimum(s / 2, high), low)  # |phi'''| = 3 w s^2 t (t^2 + s^2)^(-5/2) peaks at s / 2
    slowest = _charbonnier_scale(low, s).pow(3)
    by_t = 3 * w * s.square() * steepest * _charbonnier_scale(steepest, s).pow(5)
    # d2 phi' / ds dt = w s (2 t^2 - s^2) (t^2 + s^2)^(-5/2), and |2 t^2 - s^2| <= 2 (t^2 + s^2)
    return Variation((by_t, s.square() * slowest, 2 * w * s * slowest), w * s.square() * slowest)


def _huber_variation(low: Tensor, high: Tensor, w: Tensor, s: Tensor) -> Variation:
    inside = _inside(low, s)
    return Variation((torch.zeros_like(low), inside / s, inside * w / s.square()), inside * w / s)


def _log_curvature(t: Tensor, w: Tensor, s: Tensor) -> Tensor:
    squared = t.square()
    return (w * s) * (s.square() - squared) / (s.square() + squared).square()


def _log_variation(low: Tensor, high: Tensor, w: Tensor, s: Tensor) -> Variation:
    """With t = s z:  phi'' = w / s a(z), a = (1 - z^2) / (1 + z^2)^2, d phi' / dw = z / (1 + z^2), d phi' / ds = -w / s
    z a(z). Where |a|, |a'| and |(z a)'| peak, their derivatives a', a'', (z a)'' vanish; in between they fall to 0."""
    low, high = low / s, high / s

    def largest(f: Callable[[Tensor], Tensor], *peaks: float) -> Tensor:
        values = [f(low.clamp(min=peak).minimum(high).square()).abs() for peak in peaks]
        return torch.stack(values).amax(0)

    curvature = largest(lambda z: (1 - z) / (1 + z).square(), 0.0, 3**0.5)  # of z^2
    by_t = largest(lambda z: 2 * z.sqrt() * (z - 3) / (1 + z).pow(3), 2**0.5 - 1, 2**0.5 + 1)
    root = 40**0.5
    by_s = largest(lambda z: ((z - 6) * z + 1) / (1 + z).pow(3), 0.0, (7 - root) ** 0.5, (7 + root) ** 0.5)
    return Variation((w / s.square() * by_t, curvature / s, w / s.square() * by_s), w / s * curvature)


def _mcp_variation(low: Tensor, high: Tensor, w: Tensor, s: Tensor) -> Variation:
    curvature = torch.where(low < s, torch.clamp(w / s - 1, min=1), _inside(low, w))
    return Variation(_huber_variation(low, high, w, s).lipschitz, curvature)


def _none(w: Tensor, s: Tensor) -> Tensor:
    return torch.zeros_like(w)


CHARBONNIER = Potential(
    name="charbonnier",
    # The plain difference sqrt(t^2 + s^2) - s cancels for t << s.
    value=lambda t, w, s: w * t.square() / ((t.square() + s.square()).sqrt() + s),
    influence=lambda t, w, s: t * _charbonnier_scale(t, s),
    curvature=lambda t, w, s: (w * s.square()) * _charbonnier_scale(t, s).pow(3),
    derivatives_by_parameters=(
        lambda t, w, s: t * _charbonnier_scale(t, s),
        lambda t, w, s: -w * s * t * _charbonnier_scale(t, s) ** 3,
    ),
    slopes_by_parameters=(
        lambda t, w, s: t.square() / ((t.square() + s.square()).sqrt() + s),
        lambda t, w, s: -w * t.square() * _charbonnier_scale(t, s) / ((t.square() + s.square()).sqrt() + s),
    ),
    largest_curvature=lambda w, s: w / s,
    weak_convexity=_none,
    variation=_charbonnier_variation,
    kinks=lambda w, s: [],
)

HUBER = Potential(
    name="huber",
    value=lambda t, w, s: w * _huber(t, s),
    influence=lambda t, w, s: _clip(t, s),
    curvature=lambda t, w, s: (w / s) * _inside(t, s),
    derivatives_by_parameters=(lambda t, w, s: _clip(t, s), lambda t, w, s: -(w / s.square()) * t * _inside(t, s)),
    slopes_by_parameters=(lambda t, w, s: _huber(t, s), lambda t, w, s: (-w / 2) * _clip(t, s).square()),
    largest_curvature=lambda w, s: w / s,
    weak_convexity=_none,
    variation=_huber_variation,
    kinks=lambda w, s: [Kink(s, (w / s, 0.0, w / s))],
)

MCP = Potential(
    name="mcp",
    value=lambda t, w, s: w * (_huber(t, s) - _huber(t, w)),
    influence=lambda t, w, s: _clip(t, s).sub_(_clip(t, w)),
    curvature=lambda t, w, s: (w / s) * _inside(t, s) - _inside(t, w),
    derivatives_by_parameters=(
        lambda t, w, s: _clip(t, s) - t.sign() * (t.abs() >= w),
        lambda t, w, s: -(w / s.square()) * t * _inside(t, s),
    ),
    slopes_by_parameters=(
        lambda t, w, s: _huber(t, s) - _huber(t, w) + (w / 2) * _clip(t, w).square(),
        lambda t, w, s: (-w / 2) * _clip(t, s).square(),
    ),
    largest_curvature=lambda w, s: w / s - 1,
    weak_convexity=lambda w, s: torch.ones_like(w),
    budgeted=True,
    smoothing=smoothing_below,
    variation=_mcp_variation,
    kinks=lambda w, s: [Kink(s, (w / s, 0.0, w / s)), Kink(w, (1.0, 1.0, 0.0))],
)

LOG = Potential(
    name="log",
    value=lambda t, w, s: (w * s / 2) * (t / s).square().log1p(),
    influence=lambda t, w, s: s * t / torch.addcmul(s.square(), t, t),
    curvature=_log_curvature,
    derivatives_by_parameters=(
        lambda t, w, s: s * t / torch.addcmul(s.square(), t, t),
        lambda t, w, s: w * t * (t.square() - s.square()) / torch.addcmul(s.square(), t, t).square(),
    ),
    slopes_by_parameters=(
        lambda t, w, s: (s / 2) * (t / s).square().log1p(),
        lambda t, w, s: w * ((t / s).square().log1p() / 2 - t.square() / torch.addcmul(s.square(), t, t)),
    ),
    largest_curvature=lambda w, s: w / s,
    weak_convexity=lambda w, s: w / (8 * s),  # at |t| = 3^(1/2) s
    variation=_log_variation,
    kinks=lambda w, s: [],
)

POTENTIALS: dict[str, Potential | LearnedPotential] = {
    potential.name: potential for potential in (CHARBONNIER, HUBER, MCP, LOG, SPLINE, WEAK_SPLINE)
}


def named(name: str) -> Potential | LearnedPotential:
    """Return the record of this name."""
    return POTENTIALS[name]


def _pickled(potential: Potential | LearnedPotential) -> str | tuple:
    """Pickle a record of POTENTIALS by its name, as its functions have none; one of somebody's own as its parts."""
    if POTENTIALS.get(potential.name) is potential:
        return named, (potential.name,)
    return object.__reduce_ex__(potential, 4)


copyreg.pickle(Potential, _pickled)
copyreg.pickle(LearnedPotential, _pickled)
