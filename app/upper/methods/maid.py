"""Method of adaptive inexact descent (Salehi, Mukherjee, Roberts, Ehrhardt: arXiv 2308.10098, Algorithms 3.1 and 3.2).

    theta_{k+1} = theta_k - alpha_k z_k,   ||z_k - grad f(theta_k)|| <= (1 - eta) ||z_k||,
    high(theta_{k+1}) + lambda eta alpha_k ||z_k||^2 <= low(theta_k),

low and high certified bounds of the exact loss (trial.py): every accepted step is proven to decrease it, however z_k
was found. Accuracy (delta_k = eps_k, as they start equal and change together), step and number of trials adapt
themselves.

- The error of z_k is either proven (bound.py; for tv and in float64), or estimated by solving twice, to inexactnesses s
  and r s: with an error proportional to the inexactness, that of the finer is ||z(s) - z(r s)|| r / (1 - r).
- A step whose bounds do not pass the test, but whose inexact losses might, if their errors are CREDIBLE of the bounds,
  is not shortened: the accuracy is raised. Any other is shortened at most max_BT times; then the accuracy is raised,
  and max_BT too.
- A step that is certified to raise the mean loss of a few images is shortened before all of them are asked. That may
  shorten a step that would have passed; what is accepted is certified on all.
- The first trial is the long step of Barzilai and Borwein (IMA J. Numer. Anal. 1988) within a factor of ten of the last
  step, and low(theta_k) may be relaxed to the largest of the last `memory` values of high (Grippo, Lampariello, Lucidi,
  SIAM J. Numer. Anal. 1986).

Where the solvers certify no tighter in floating point and no step passes, theta is as good as the number format can
prove. The method then stays there: each later step costs one evaluation and has size 0, until the format changes.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from app.lower.energy import Energy, Solver
from app.upper.bound import MARGIN, error_bound, estimated_error, inexactness
from app.upper.descent import step_of_change
from app.upper.hypergradient import Hypergradient, hypergradient
from app.upper.method import (
    Batch,
    Computations,
    State,
    Step,
    Theta,
    energy_at,
    first_accuracy,
    length,
    move,
    remember,
    report,
    require_finite,
    warm_start,
)  # fmt: skip
from app.upper.trial import Evaluation, Part, bounded, copies, evaluate, inner, put

NU_UNDER, NU_OVER = 0.5, 1.25  # of eps_k
RHO_UNDER, RHO_OVER = 0.5, 10 / 9  # of alpha_k
MAX_BT = 5  # trials at first
CREDIBLE = 0.05  # certified errors of losses are many times too large
SCREENED = 10  # trials on a part of the batch
LAMBDA = 0.1  # share of the decrease that a linear f would show
SAFEGUARD = 10.0  # between a Barzilai-Borwein step and the last step
FIRST_CHANGE = 0.1  # of theta, in the root mean square: the first trial where no alpha_0 is given


@dataclass(frozen=True)
class _Here:
    """What does not change within a step."""

    k: int
    batch: Batch
    energy: Energy
    cost: Computations

    @property
    def theta(self) -> Theta:
        return tuple(self.batch.learned.parameters())


@dataclass(frozen=True)
class _Gradient:
    z: Hypergradient
    accuracy: float  # eps_k
    exhausted: bool  # floating point certifies no tighter

    @property
    def squared(self) -> float:
        return length(self.z.gradient) ** 2


@dataclass(frozen=True)
class Maid:
    solve: Solver
    step_size: float  # alpha_0; 0 to find it at the first step
    accuracy: float  # eps_0; 0 to find it at the first step
    eta: float = 0.5
    memory: int = 1
    barzilai_borwein: bool = True
    proven: bool = False

    full_batch: ClassVar[bool] = True
    finite_sum: ClassVar[bool] = True
    needs_convexity: ClassVar[bool] = True

    def step(self, k: int, batch: Batch, state: State) -> Step:
        here = _Here(k, batch, energy_at(k, batch), Computations())
        accuracy = _get(state, "accuracy") or self.accuracy or first_accuracy(batch, here.energy, state)
        x, q = warm_start(batch, here.energy, state)
        if _stalled(state, x):
            z = hypergradient(batch.learned, here.energy, batch.loss, self.solve, x, q, accuracy)
            here.cost.add(z.computations)
            return report(z, accuracy, 0.0, here.cost.total)
        found = self._gradient(here, x, q, accuracy)
        alpha = self._screened(here, found, self._first_trial(here, found.z, state), _highs(state))
        trials = int(_get(state, "max_BT") or MAX_BT)
        while True:
            alpha, accepted = self._backtrack(here, found, alpha, trials, _highs(state))
            z = found.z
            if accepted is not None:
                _move_on(state, here, found, alpha, accepted, self.memory)
                _set(state, max_BT=trials)
                return report(z, found.accuracy, alpha, here.cost.total)
            if found.exhausted:
                remember(batch, state, z)
                _set(state, stalled=torch.finfo(x.dtype).eps, accuracy=float(inexactness(z).max()))
                return report(z, found.accuracy, 0.0, here.cost.total)
            trials += 1
            found = self._gradient(here, z.lower.x, z.linear.q, NU_UNDER * found.accuracy)

    def _gradient(self, here: _Here, x: Tensor, q: Tensor | None, accuracy: float) -> _Gradient:
        """Algorithm 3.1: raise the accuracy until the error of z is at most (1 - eta) ||z||."""

        def solved(x: Tensor, q: Tensor | None, accuracy: float) -> Hypergradient:
            batch = here.batch
            z = hypergradient(batch.learned, here.energy, batch.loss, self.solve, x, q, accuracy)
            here.cost.add(z.computations)
            require_finite(here.k, z.loss, *z.gradient)
            return z

        z = solved(x, q, accuracy)
        while True:
            if self.proven:
                error = _proven_error(here, z)
            else:  # below what was reached, so that every solve moves on
                before = z
                z = solved(z.lower.x, z.linear.q, NU_UNDER * min(accuracy, float(inexactness(z).max())))
                error = estimated_error(before, z)
            exhausted = float(inexactness(z).max()) > (accuracy if self.proven else NU_UNDER * accuracy)
            if exhausted or error <= (1 - self.eta) * length(z.gradient):
                return _Gradient(z, accuracy, exhausted)
            accuracy *= NU_UNDER
            if self.proven:
                z = solved(z.lower.x, z.linear.q, accuracy)

    def _backtrack(
        self, here: _Here, found: _Gradient, alpha: float, trials: int, highs: Tensor
    ) -> tuple[float, Evaluation | None]:
        """The first alpha, alpha rho, ... that passes, theta moved there and its losses; or the last one tried, theta
        as it was, and None."""
        z, before = found.z, copies(here.theta)
        now = bounded(here.batch.loss, z.lower)
        likely = now.value + CREDIBLE * (now.high - now.value)
        low, high = (max([bound, *highs.tolist()]) for bound in (now.low, likely))
        for i in range(trials):
            alpha *= RHO_UNDER if i else 1.0
            decrease = LAMBDA * self.eta * alpha * found.squared
            move(here.theta, z.gradient, alpha)
            trial = evaluate(here.batch, self.solve, z.lower.x, NU_UNDER * found.accuracy, here.cost)
            if trial.high + decrease <= low:
                return alpha, trial
            put(here.theta, before)
            undecided = trial.value - CREDIBLE * (trial.value - trial.low) + decrease <= high
            if undecided and not found.exhausted:
                break
        return alpha, None

    def _screened(self, here: _Here, found: _Gradient, alpha: float, highs: Tensor) -> float:
        """The first of alpha, alpha rho, ... that is not certified to raise the mean loss of some images."""
        part, before = Part.of(here.batch, found.z), copies(here.theta)
        slack = max([0.0, *(highs - bounded(here.batch.loss, found.z.lower).low).tolist()])
        for _ in range(SCREENED):
            move(here.theta, found.z.gradient, alpha)
            rises = part.rises(self.solve, NU_UNDER * found.accuracy, here.cost, slack)
            put(here.theta, before)
            if not rises:
                break
            alpha *= RHO_UNDER
        return alpha

    def _first_trial(self, here: _Here, z: Hypergradient, state: State) -> float:
        last = _get(state, "alpha")
        if not last:
            return self.step_size or step_of_change(z.gradient, FIRST_CHANGE)
        if self.barzilai_borwein:
            previous = [tuple(state.values[f"{name}.{i}"] for i in range(len(z.gradient))) for name in ("theta", "z")]
            ds, dz = (tuple(b - a for a, b in zip(old, new, strict=True))
                      for old, new in zip(previous, (copies(here.theta), z.gradient), strict=True))  # fmt: skip
            along = inner(ds, dz)
            if along > 0:
                return min(max(inner(ds, ds) / along, last / SAFEGUARD), last * SAFEGUARD)
        return RHO_OVER * last


def _proven_error(here: _Here, z: Hypergradient) -> float:
    batch = here.batch
    return float(error_bound(batch.learned, here.energy, batch.loss.smoothness, z.lower, z.linear).mean())


def _move_on(state: State, here: _Here, found: _Gradient, alpha: float, accepted: Evaluation, memory: int) -> None:
    """Remember what the next step builds on; theta is at the accepted trial already."""
    z, images = found.z, here.batch.images
    before = tuple(p.detach() + alpha * g for p, g in zip(here.theta, z.gradient, strict=True))
    for i, (p, g) in enumerate(zip(before, z.gradient, strict=True)):
        state.values[f"theta.{i}"], state.values[f"z.{i}"] = p, g.clone()
    state.remember("x", images, accepted.lower.x)
    state.remember("q", images, z.linear.q)
    reached = MARGIN * float(inexactness(z).max()) if found.exhausted else 0.0
    _set(state, alpha=alpha, accuracy=max(NU_OVER * found.accuracy, reached))
    if memory > 1:
        new = torch.tensor([accepted.high], dtype=torch.float64)
        state.values["highs"] = torch.cat([_highs(state).cpu(), new])[1 - memory :]


def _highs(state: State) -> Tensor:
    return state.values.get("highs", torch.empty(0, dtype=torch.float64))


def _stalled(state: State, x: Tensor) -> bool:
    return torch.finfo(x.dtype).eps >= _get(state, "stalled") > 0


def _get(state: State, name: str) -> float:
    return float(state.values.get(name, 0.0))


def _set(state: State, **values: float) -> None:
    state.values.update({name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()})
