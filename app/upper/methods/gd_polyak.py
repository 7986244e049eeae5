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

from dataclasses import dataclass, field

import torch

from app.lower import lbfgs, polyak
from app.lower.energy import Solver
from app.lower.polyak import Epoch
from app.upper.descent import ENOUGH, LAST_MOVE, first_step
from app.upper.hypergradient import Hypergradient
from app.upper.iteration import Iteration
from app.upper.method import Batch, FullBatch, Step
from app.upper.schedules import Schedule, constant
from app.upper.state import WarmStart
from app.upper.theta import copies, length, move, put
from app.upper.trial import Subset, loss_bounds, trial_loss

TRIALS = 6  # in one step, after which theta stays
TIGHTER = 0.1  # times the accuracy after that
SHORTER, LONGER = 0.5, 10 / 9  # of eta


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Where the present epoch is (app/lower/polyak.py), and the short step."""

    gap: float  # f - f~
    fallen: float  # by how much f fell since the last long step
    count: float  # short steps since the last long step
    eta: float

    @property
    def epoch(self) -> Epoch:
        return Epoch(*(torch.tensor(v, dtype=torch.float64) for v in (self.gap, self.fallen, self.count)))


@dataclass
class GdPolyakState:
    """The last (x, q) of each image, eps_0, the steps, and the factor of the accuracy after steps that failed."""

    warm: WarmStart
    eps_0: float | None = None
    steps: Steps | None = field(default=None, metadata={"name": "epoch"})
    tighter: float | None = None


@dataclass(frozen=True, kw_only=True)
class GdPolyak(FullBatch):
    """Short steps and long Polyak steps, each tried before it is taken."""

    solve: Solver = lbfgs.solve
    schedule: Schedule = field(default_factory=constant)  # eps_k / eps_0
    step_size: float = 0.0  # eta; 0 to find it at the first step
    accuracy: float = 0.0  # eps_0; 0 to find it at the first step
    short_steps: int = 5

    def begin(self, finite_sum: bool) -> GdPolyakState:
        return GdPolyakState(WarmStart.empty(finite_sum))

    def step(self, k: int, batch: Batch, state: GdPolyakState) -> Step:
        here = Iteration.begin(k, batch)
        accuracy = here.accuracy(self.schedule, self.accuracy, state) * (state.tighter or 1.0)
        z = here.hypergradient(self.solve, *state.warm.recall(batch.images, here.energy.start), accuracy)
        epoch, eta = self._steps(here, state, z, accuracy)
        usual = eta

        theta, now = here.theta, loss_bounds(batch, z.lower)
        before, squared = copies(theta), torch.tensor(length(z.gradient) ** 2, dtype=torch.float64)
        subset = Subset.of(batch, z)
        longest = LAST_MOVE * (sum(p.numel() for p in theta) * squared) ** 0.5  # alpha ||z||^2 of the largest move
        for _ in range(TRIALS):
            long = polyak.is_long(epoch, self.short_steps)
            if long:
                epoch = polyak.limit(epoch, longest)
            alpha = max(float(polyak.long_step(epoch, squared)), eta) if long else eta
            move(theta, z.gradient, alpha)
            trial, change = now, torch.tensor(torch.inf, dtype=torch.float64)
            if not subset.loss_rises(self.solve, accuracy, here.cost):
                trial = trial_loss(batch, self.solve, z.lower.x, accuracy, here.cost)
                change = torch.tensor(trial.value - now.value, dtype=torch.float64)
            accepted = (change <= (0.0 if long else -ENOUGH * alpha * squared)) & (squared > 0)
            epoch = polyak.settle(epoch, long, change, accepted)
            if not long:
                eta *= LONGER if accepted else SHORTER
            if accepted:
                break
            put(theta, before)
            trial, alpha = now, 0.0
        else:
            eta = usual
            if bool(z.converged.all()):
                state.tighter = TIGHTER * (state.tighter or 1.0)
        state.warm.remember(batch.images, trial.lower.x, z.linear.q)
        state.steps = Steps(gap=float(epoch.gap), fallen=float(epoch.fallen), count=float(epoch.count), eta=eta)
        return here.report(z, accuracy, alpha)

    def _steps(
        self, here: Iteration, state: GdPolyakState, z: Hypergradient, accuracy: float
    ) -> tuple[Epoch, float]:  # fmt: skip
        if state.steps is not None and state.steps.eta:
            return state.steps.epoch, state.steps.eta
        first = self.step_size or first_step(here.batch, z, self.solve, here.cost, accuracy, z.gradient)
        return polyak.begin(here.batch.share.gather(z.loss.double()).mean().cpu()), first
