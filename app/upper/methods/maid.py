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

import torch
from torch import Tensor

from app.lower import lbfgs
from app.lower.energy import Solver
from app.upper.bound import MARGIN, estimated_error
from app.upper.descent import step_of_change
from app.upper.hypergradient import Hypergradient
from app.upper.iteration import Iteration
from app.upper.method import Batch, FullBatch, Step
from app.upper.state import WarmStart
from app.upper.theta import Theta, copies, inner_product, length, move, put
from app.upper.trial import Subset, TrialLoss, loss_bounds, trial_loss

NU_UNDER, NU_OVER = 0.5, 1.25  # of eps_k
RHO_UNDER, RHO_OVER = 0.5, 10 / 9  # of alpha_k
MAX_BT = 5  # trials at first
CREDIBLE = 0.05  # certified errors of losses are many times too large
SCREENINGS = 10  # trials on a subset of the batch
LAMBDA = 0.1  # share of the decrease that a linear f would show
SAFEGUARD = 10.0  # between a Barzilai-Borwein step and the last step
FIRST_CHANGE = 0.1  # of theta, in the root mean square: the first trial where no alpha_0 is given


@dataclass(frozen=True)
class LastStep:
    """The last step that was accepted: theta <- theta - alpha z."""

    alpha: float
    theta: Theta
    z: Theta


@dataclass
class MaidState:
    """What the next step builds on."""

    warm: WarmStart  # the last (x, q) of each image
    eps_0: float | None = None
    accuracy: float | None = None  # eps_k that the next step begins with
    max_BT: int | None = None
    last: LastStep | None = None
    highs: tuple[float, ...] = ()  # certified bounds of the last losses
    stalled: float | None = None  # rounding unit of the format in which no step passed


@dataclass(frozen=True)
class _Gradient:
    z: Hypergradient
    accuracy: float  # eps_k
    exhausted: bool  # floating point certifies no tighter

    @property
    def squared(self) -> float:
        return length(self.z.gradient) ** 2


@dataclass(frozen=True, kw_only=True)
class Maid(FullBatch):
    """Hypergradients of bounded relative error, and a line search on certified losses."""

    solve: Solver = lbfgs.solve
    step_size: float = 0.0  # alpha_0; 0 to find it at the first step
    accuracy: float = 0.0  # eps_0; 0 to find it at the first step
    eta: float = 0.5
    memory: int = 1
    barzilai_borwein: bool = True
    proven: bool = False  # the error of z_k is omega of bound.py; else it is estimated

    def begin(self, finite_sum: bool) -> MaidState:
        return MaidState(WarmStart.empty(finite_sum))

    def step(self, k: int, batch: Batch, state: MaidState) -> Step:
        here = Iteration.begin(k, batch)
        accuracy = state.accuracy or self.accuracy or here.first_accuracy(state)
        x, q = state.warm.recall(batch.images, here.energy.start)
        unit = torch.finfo(x.dtype).eps
        if state.stalled is not None and state.stalled <= unit:
            return here.report(here.hypergradient(self.solve, x, q, accuracy), accuracy, 0.0)
        highs = state.highs if self.memory > 1 else ()
        found = self._gradient(here, x, q, accuracy)
        alpha = self._screened(here, found, self._first_trial(here, found.z, state.last), highs)
        trials = state.max_BT or MAX_BT
        while True:
            alpha, accepted = self._backtrack(here, found, alpha, trials, highs)
            z = found.z
            if accepted is not None:
                state.max_BT = trials
                self._move_on(state, here, found, alpha, accepted)
                return here.report(z, found.accuracy, alpha)
            if found.exhausted:
                state.warm.remember(batch.images, z.lower.x, z.linear.q)
                state.stalled, state.accuracy = unit, float(z.inexactness.max())
                return here.report(z, found.accuracy, 0.0)
            trials += 1
            found = self._gradient(here, z.lower.x, z.linear.q, NU_UNDER * found.accuracy)

    def _gradient(self, here: Iteration, x: Tensor, q: Tensor | None, accuracy: float) -> _Gradient:
        """Raise the accuracy until the error of z is at most (1 - eta) ||z|| (Algorithm 3.1)."""
        z = here.hypergradient(self.solve, x, q, accuracy)
        while True:
            if self.proven:
                error = here.proven_error(z)
            else:  # below what was reached, so that every solve moves on
                before, reached = z, min(accuracy, float(z.inexactness.max()))
                z = here.hypergradient(self.solve, z.lower.x, z.linear.q, NU_UNDER * reached)
                error = estimated_error(before, z)
            exhausted = float(z.inexactness.max()) > (accuracy if self.proven else NU_UNDER * accuracy)
            if exhausted or error <= (1 - self.eta) * length(z.gradient):
                return _Gradient(z, accuracy, exhausted)
            accuracy *= NU_UNDER
            if self.proven:
                z = here.hypergradient(self.solve, z.lower.x, z.linear.q, accuracy)

    def _backtrack(
        self, here: Iteration, found: _Gradient, alpha: float, trials: int, highs: tuple[float, ...]
    ) -> tuple[float, TrialLoss | None]:
        """Return the first of alpha, alpha rho, ... that passes, theta moved there, and its loss.

        Or the last one that was tried, theta as it was, and None.
        """
        z, before = found.z, copies(here.theta)
        now = loss_bounds(here.batch, z.lower)
        likely = now.value + CREDIBLE * (now.high - now.value)
        low, high = (max([bound, *highs]) for bound in (now.low, likely))
        for i in range(trials):
            alpha *= RHO_UNDER if i else 1.0
            decrease = LAMBDA * self.eta * alpha * found.squared
            move(here.theta, z.gradient, alpha)
            trial = trial_loss(here.batch, self.solve, z.lower.x, NU_UNDER * found.accuracy, here.cost)
            if trial.high + decrease <= low:
                return alpha, trial
            put(here.theta, before)
            undecided = trial.value - CREDIBLE * (trial.value - trial.low) + decrease <= high
            if undecided and not found.exhausted:
                break
        return alpha, None

    def _screened(self, here: Iteration, found: _Gradient, alpha: float, highs: tuple[float, ...]) -> float:
        """Return the first of alpha, alpha rho, ... that is not certified to raise the mean loss of some images."""
        subset, before = Subset.of(here.batch, found.z), copies(here.theta)
        low = loss_bounds(here.batch, found.z.lower).low
        slack = max([0.0, *(high - low for high in highs)])
        for _ in range(SCREENINGS):
            move(here.theta, found.z.gradient, alpha)
            rises = subset.loss_rises(self.solve, NU_UNDER * found.accuracy, here.cost, slack)
            put(here.theta, before)
            if not rises:
                break
            alpha *= RHO_UNDER
        return alpha

    def _first_trial(self, here: Iteration, z: Hypergradient, last: LastStep | None) -> float:
        if last is None:
            return self.step_size or step_of_change(z.gradient, FIRST_CHANGE)
        if self.barzilai_borwein:
            ds = tuple(b - a for a, b in zip(last.theta, copies(here.theta), strict=True))
            dz = tuple(b - a for a, b in zip(last.z, z.gradient, strict=True))
            along = inner_product(ds, dz)
            if along > 0:
                return min(max(inner_product(ds, ds) / along, last.alpha / SAFEGUARD), last.alpha * SAFEGUARD)
        return RHO_OVER * last.alpha

    def _move_on(self, state: MaidState, here: Iteration, found: _Gradient, alpha: float, accepted: TrialLoss) -> None:
        """Remember what the next step builds on; theta is at the accepted trial already."""
        z = found.z
        before = tuple(p.detach() + alpha * g for p, g in zip(here.theta, z.gradient, strict=True))
        state.last = LastStep(alpha, before, z.gradient)
        state.warm.remember(here.batch.images, accepted.lower.x, z.linear.q)
        reached = MARGIN * float(z.inexactness.max()) if found.exhausted else 0.0
        state.accuracy = max(NU_OVER * found.accuracy, reached)
        if self.memory > 1:
            state.highs = (*state.highs, accepted.high)[1 - self.memory :]
