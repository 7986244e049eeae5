"""GDPolyak on inexact hypergradients (Davis, Drusvyatskiy, Jiang: arXiv 2409.19791, rule of app/lower/polyak.py).

    short_steps times  theta <- theta - eta z,   then once  theta <- theta - (f - f~) / ||z||^2 z,

f~ = 0 at first, as losses are >= 0, then raised where the long step it gives fails (arXiv 1905.00313), or would change
theta by more than LAST_MOVE: far away, a lower level can be too stiff to be solved at any price. Every step is
tried before it is taken, at the cost of the lower-level solve that the next step starts with: a long step must not
raise the loss, a short one must lower it by eta ||z||^2 / 4 (for a quadratic of curvature L: eta <= 3 / (2 L)). What
fails, or is certified to raise the mean loss of some images, is replaced in the same step, a long step by a
short one and a short one by its half; eta grows slowly after short steps that pass. So theta never leaves the best
point, up to the accuracy of the losses. Where nothing passes, the accuracy is too low to tell: theta stays, and the
next steps ask for more, as far as floating point certifies it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from app.lower import polyak
from app.lower.energy import Solver
from app.lower.polyak import Epoch
from app.upper.descent import LAST_MOVE, first_step
from app.upper.hypergradient import Hypergradient, hypergradient
from app.upper.method import (
    Batch,
    Computations,
    State,
    Step,
    energy_at,
    first_accuracy,
    length,
    move,
    report,
    require_finite,
    warm_start,
)  # fmt: skip
from app.upper.schedules import Schedule
from app.upper.trial import Evaluation, Part, bounded, copies, evaluate, put

TRIALS = 6  # in one step, after which theta stays
TIGHTER = 0.1  # times the accuracy after that
SHORTER, LONGER = 0.5, 10 / 9  # of eta
ENOUGH = 0.25  # of eta ||z||^2


@dataclass(frozen=True)
class GdPolyak:
    solve: Solver
    schedule: Schedule  # eps_k / eps_0
    step_size: float  # eta; 0 to find it at the first step
    accuracy: float  # eps_0; 0 to find it at the first step
    short_steps: int = 5

    full_batch: ClassVar[bool] = True
    finite_sum: ClassVar[bool] = True
    needs_convexity: ClassVar[bool] = True

    def step(self, k: int, batch: Batch, state: State) -> Step:
        energy, cost = energy_at(k, batch), Computations()
        accuracy = self.schedule(k) * (self.accuracy or first_accuracy(batch, energy, state))
        accuracy *= float(state.values.get("tighter", 1.0))
        x, q = warm_start(batch, energy, state)
        z = hypergradient(batch.learned, energy, batch.loss, self.solve, x, q, accuracy)
        cost.add(z.computations)
        require_finite(k, z.loss, *z.gradient)
        epoch, eta = self._recall(batch, state, z, cost)
        usual = eta

        theta, now = tuple(batch.learned.parameters()), bounded(batch.loss, z.lower)
        before, squared = copies(theta), torch.tensor(length(z.gradient) ** 2, dtype=torch.float64)
        part = Part.of(batch, z)
        longest = LAST_MOVE * (sum(p.numel() for p in theta) / squared) ** 0.5
        for _ in range(TRIALS):
            long = polyak.is_long(epoch, self.short_steps)
            if long:
                epoch = polyak.limit(epoch, longest * squared)
            alpha = max(float(polyak.long_step(epoch, squared)), eta) if long else eta
            move(theta, z.gradient, alpha)
            trial, change = now, torch.tensor(torch.inf, dtype=torch.float64)
            if not part.rises(self.solve, accuracy, cost):
                trial = evaluate(batch, self.solve, z.lower.x, accuracy, cost)
                change = torch.tensor(trial.value - now.value, dtype=torch.float64)
            accepted = change <= (0.0 if long else -ENOUGH * alpha * squared)
            epoch = polyak.settle(epoch, long, change, accepted)
            if not long:
                eta *= LONGER if accepted else SHORTER
            if accepted:
                break
            put(theta, before)
            trial, alpha = now, 0.0
        else:
            eta = usual
            _tighten(state, z)
        _remember(batch, state, z, trial, epoch, eta)
        return report(z, accuracy, alpha, cost.total)

    def _recall(self, batch: Batch, state: State, z: Hypergradient, cost: Computations) -> tuple[Epoch, float]:
        if "epoch" in state.values:
            gap, fallen, count, eta = state.values["epoch"].cpu()
            return Epoch(gap, fallen, count), float(eta)
        return polyak.begin(z.loss.double().mean().cpu()), self.step_size or first_step(batch, z, self.solve, cost)


def _tighten(state: State, z: Hypergradient) -> None:
    if bool((z.lower.converged & z.linear.converged).all()):
        state.values["tighter"] = TIGHTER * state.values.get("tighter", torch.tensor(1.0, dtype=torch.float64))


def _remember(batch: Batch, state: State, z: Hypergradient, trial: Evaluation, epoch: Epoch, eta: float) -> None:
    state.remember("x", batch.images, trial.lower.x)
    state.remember("q", batch.images, z.linear.q)
    eta_64 = torch.tensor(eta, dtype=torch.float64)
    state.values["epoch"] = torch.stack([epoch.gap, epoch.fallen, epoch.count, eta_64])
