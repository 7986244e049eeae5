"""The last word on a solution: a bound on ||x - argmin h|| that holds for the very array that is handed over.

    ||x - argmin h|| <= (||g|| + delta) / mu,    g = grad h(x) as float64 computes it,    delta >= ||g - grad h(x)||.

h is the energy of the numbers as they are: measurement, parameters and operator in their own precision are exact in
float64, and so is x. A solver that works in float32 sees g with an error of about 1e-7 L ||x||, which in a bound of 0.1
is lost at mu = 1 and not at mu = 1e-3: its own bound is an estimate.

**delta.** Let u = 2^-53 and gamma_m = m u / (1 - m u): a sum of m products, in any order, is computed up to gamma_m
times the sum of their absolute values (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). Of a
field of K experts with filters (C, s, s), B = D^(1/2) C, D the largest |phi''|, ||B||^2 = L:

- a response is a sum of m = C s^2 products. By Cauchy and Schwarz it is wrong by gamma_m ||c|| ||x in its window||, and
  each pixel is in s^2 windows. Through D^(1/2) and ||B||, with sum_k d_k ||c_k||^2 <= C L, this makes
  gamma_m s C^(1/2) L ||x||;
- a pixel of C^T z is a sum of K s^2 products, z_k = phi'(u_k), |z_k| <= d_k |u_k|: likewise
  gamma_(K s^2) s C^(1/2) L ||x||;
- phi' and its parameters (exponentials, the norm of a filter) take fewer than 2^8 operations.

Together these are (C + K) s^3 C^(1/2) u L ||x|| and a little: 1.4e4 u for 40 filters of 7 x 7, 1.4e5 u for 60 of
13 x 13. Total variation and an input-convex network stay below that. A Fourier transform of N numbers is wrong by less
than 8 log2(N) u in the l2 norm (Higham, section 24.1), a direct convolution of m taps by m^(1/2) gamma_m. So

    delta = n u ((||A||^2 + L + ridge) ||x|| + ||A|| ||y||),    n = OPERATIONS, or twice (C + K) s^3 C^(1/2) if more,

of A and R of one's own as of ours, if they are no less careful. (Contrasts are what float64 computes of z.) ||g||
itself, a sum over N pixels, is computed up to the factor 1 + N u.

**mu** = lambda_min + ridge - rho from the promoted numbers; none of the three is wrong by more than 2^-40 L, which is
subtracted.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from app.lower.energy import DOUBT, Energy, Solver
from app.lower.solution import LowerSolution, norm

OPERATIONS = 2**18
UNIT = 2.0**-53
TIGHTER = 0.9  # of what rounding leaves of the accuracy, for a solver that goes on
STALLED = 8  # times the rounding of its gradient: where a solver ends above, it was not rounding that ended it


@torch.no_grad()
def certified_solve(
    solve: Solver, energy: Callable[[], Energy], exact: Callable[[], Energy], accuracy: float, dtype: torch.dtype
) -> LowerSolution:
    """Return argmin h in this type of number, with a bound that holds for it as it is.

    Where the bound misses the accuracy by rounding, the solve goes on: to a tighter target, then in float64, image by
    image. Where even that fails, an image has not converged. energy, exact: make h, and h in float64, one after the
    other, so that no memory is held for both. A solution that is only stationary stays as it is. Raises what `solve`
    raises.
    """
    h = energy()
    estimated, certifiable = solve(h, h.start, accuracy), h.bounds[0] > 0
    del h
    if not certifiable:
        return replace(estimated, x=estimated.x.to(dtype))
    try:
        precise = exact()
        found = _handed_over(precise, estimated, accuracy, dtype)
    except Exception as error:  # a regularizer or a physics of one's own may raise anything
        warnings.warn(f"nothing is certified, because float64 fails: {' '.join(str(error).split())}", stacklevel=2)
        unknown = torch.full_like(estimated.error_bound, torch.inf)
        return replace(
            estimated, x=estimated.x.to(dtype), error_bound=unknown, converged=torch.zeros_like(estimated.converged)
        )
    for i in (~found.converged).nonzero() if precise.bounds[0] > 0 else ():
        part = _goes_on(solve, energy().take(i), precise.take(i), (estimated.take(i), found.take(i)), accuracy)
        for name, value in vars(part).items():
            getattr(found, name)[i] = value
    return found


def proven_bound(exact: Energy, x: Tensor) -> Tensor:  # (B, C, H, W), float64 -> (B,)
    """Return a bound on ||x_b - argmin h_b|| that no rounding can break. Raises ArithmeticError where the energy does
    not compute in float64."""
    g = exact.gradient(x)
    if g.dtype != torch.float64:
        raise ArithmeticError(f"the gradient of the energy is {g.dtype}")
    mu, largest = exact.bounds
    measured = exact.operator.norm_squared**0.5 * norm(exact.y)
    operations = max(OPERATIONS, 2 * getattr(exact.functional, "operations", 0.0))
    delta = operations * UNIT * (largest * norm(x) + measured)
    mu -= DOUBT * largest
    bound = (norm(g) * (1 + g[0].numel() * UNIT) + delta) / mu if mu > 0 else torch.full_like(delta, torch.inf)
    return bound.nan_to_num(torch.inf, torch.inf)


def _handed_over(exact: Energy, found: LowerSolution, accuracy: float, dtype: torch.dtype) -> LowerSolution:
    """The solution in this type of number, with its bound, rounded up."""
    x = found.x.to(dtype)
    bound = proven_bound(exact, x.double())
    kept = torch.promote_types(dtype, torch.float32)
    shorter = bound.to(kept)
    stated = torch.where(shorter < bound, shorter.nextafter(torch.full_like(shorter, torch.inf)), shorter)
    return replace(found, x=x, error_bound=stated, converged=stated.double() <= accuracy)


def _goes_on(
    solve: Solver, energy: Energy, exact: Energy, so_far: tuple[LowerSolution, LowerSolution], accuracy: float
) -> LowerSolution:
    """What a longer solve of one image finds. so_far: what the solver found, and what is handed over of it."""
    estimated, best = so_far
    x, dtype = estimated.x, best.x.dtype
    rounding = float(norm(energy.gradient(x).double() - exact.gradient(x.double()))) / exact.bounds[0]
    if not estimated.converged and float(estimated.error_bound) > STALLED * rounding:
        return best
    attempts = [(exact, accuracy / 2)]
    if estimated.converged and rounding < accuracy / 2:
        attempts.insert(0, (energy, TIGHTER * (accuracy**2 - rounding**2) ** 0.5))
    for h, target in attempts:
        further = solve(h, x.to(h.y.real.dtype), target)
        found = _handed_over(exact, further, accuracy, dtype)
        x, iterations = further.x, best.iterations + found.iterations
        best = replace(found if found.error_bound < best.error_bound else best, iterations=iterations)
        if best.converged:
            break
    return best
