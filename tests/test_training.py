"""Training moves the parameters the right way, and a run that was cut short continues bit by bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from deepinv.physics import Denoising

from app.cli import main, resolve_experiment
from app.lower import agd, lbfgs
from app.lower.energy import Energy
from app.lower.solution import NonFiniteError, NotStronglyConvexError
from app.problem.losses import SquaredError
from app.problem.problem import Problem
from app.settings.toml import load
from app.training import checkpoint, session
from app.training.fit import fit
from app.upper import direction, schedules
from app.upper.descent import Descent, first_step, longest_descent
from app.upper.hypergradient import hypergradient
from app.upper.method import Batch, Cost
from app.upper.methods.hoag import Hoag
from app.upper.methods.isgd import Isgd, IsgdState, unmet_condition
from app.upper.state import WarmStart
from app.upper.trial import tight_loss
from regularizers import FieldOfExperts, TotalVariation
from tests.conftest import ROOT
from tests.problems import Identity

ARGUMENTS = [
    "--set", "data.images=builtin:train", "--set", "data.validation=builtin:test", "--set", "data.patch_size=24",
    "--set", "upper.batch_size=3", "--set", "regularizer.filters=4", "--set", "regularizer.filter_size=3",
    "--set", "data.validation_crop=32", "--set", "run.checkpoint_every=2", "--set", "run.validate_every=4", "--quiet",
]  # fmt: skip


def metrics(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def start(folder: Path, steps: int, *more: str) -> subprocess.Popen:
    """Train in another process, which draws nothing at the end."""
    arguments = ["train", "foe-denoise", "--out", str(folder), *ARGUMENTS, *more, "--set", f"run.steps={steps}"]
    undrawn = "from app.commands import train; train.draw_run = lambda *_: []"
    program = f"{undrawn}; from app.cli import main; raise SystemExit(main({arguments}))"
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    for _ in range(1200):
        file = folder / "metrics.csv"
        if file.exists() and file.read_text().count("\n") > step:
            return
        assert process.poll() is None, "the run ended before it was interrupted"
        time.sleep(0.05)
    raise AssertionError("the run did not get so far")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_after_a_whole_step_with_a_checkpoint(tmp_path, number):
    process = start(tmp_path / "run", 10_000, "--set", "run.checkpoint_every=1000")
    wait_for_step(process, tmp_path / "run", 3)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    _, facts = checkpoint.load(tmp_path / "run" / "checkpoint" / "state.safetensors")
    assert facts["step"] == len(metrics(tmp_path / "run"))


def test_a_longer_run_can_be_asked_for_on_resume(tmp_path):
    out = str(tmp_path / "run")
    assert main(["train", "foe-denoise", "--out", out, *ARGUMENTS, "--set", "run.steps=2"]) == 0
    assert main(["resume", out, "--quiet", "--set", "run.steps=4"]) == 0
    assert [r["step"] for r in metrics(tmp_path / "run")] == ["1", "2", "3", "4"]
    assert load(tmp_path / "run" / "config.toml").run.steps == 4


def test_settings_that_differ_on_resume_are_told(tmp_path):
    out, level = str(tmp_path / "run"), "problem.noise_level=0.2"
    assert main(["train", "foe-denoise", "--out", out, *ARGUMENTS, "--set", "run.steps=2"]) == 0
    assert main(["resume", out, "--quiet", "--set", "run.steps=3", "--set", level]) == 0
    assert main(["resume", out, "--quiet"]) == 0
    (told,) = [line for line in (tmp_path / "run" / "log.txt").read_text().splitlines() if "are others" in line]
    assert "from step 2 on: problem.noise_level = 0.2 (was 0.098" in told and "; run.steps = 3 (was 2)" in told


def test_a_run_that_begins_with_a_model_is_continued_by_its_settings(tmp_path):
    """The settings name the model, whose architecture is that of the run."""
    common = "[data]\nimages='builtin:train'\nvalidation='builtin:test'\npatch_size=24\nvalidation_crop=32\n"
    (tmp_path / "first.toml").write_text(f"{common}[regularizer]\nname='foe'\nfilters=4\nfilter_size=3\n")
    (tmp_path / "then.toml").write_text(f"{common}[regularizer]\nstart='{tmp_path / 'first'}'\n")
    for name in ("first", "then", "then"):
        settings = ["run.steps=2", "upper.batch_size=2", "run.device=cpu"]
        _, config = resolve_experiment(str(tmp_path / f"{name}.toml"), settings)
        assert session.finish(config, tmp_path / name, tmp_path, True, "") == session.DONE
    assert load(tmp_path / "then" / "config.toml").regularizer.filters == 4  # type: ignore[attr-defined]
    assert len(metrics(tmp_path / "then")) == 2


def test_atomic_writes_leave_the_old_file_when_they_fail(tmp_path, monkeypatch):
    file = tmp_path / "state.safetensors"
    checkpoint.save(file, {"a": torch.ones(2)}, {"step": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(file, {"a": torch.zeros(2)}, {"step": 2})
    tensors, facts = checkpoint.load(file)
    assert facts["step"] == 1
    assert tensors["a"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def toy_problem(seed: int = 0, count: int = 4) -> tuple[TotalVariation, Batch]:
    """Piecewise constant images: more weight than the initial one pays off."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(count, 1, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    y = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    return batch_of(TotalVariation(1, weight=0.005, smoothing=0.03), y, clean)


def batch_of(regularizer: TotalVariation, y: torch.Tensor, clean: torch.Tensor) -> tuple[TotalVariation, Batch]:
    images = tuple(range(len(y)))
    return regularizer, Batch(
        regularizer, lambda: Energy(Identity(), regularizer.frozen(), y), SquaredError(clean), images
    )


def isgd(step: Descent, accuracy: float, relative: float = 0.0, proven: bool = True) -> Isgd:
    return Isgd(descent=step, accuracy=accuracy, relative_accuracy=relative, proven=proven)


def parameters(regularizer: TotalVariation) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in regularizer.parameters()])


@pytest.mark.parametrize(
    ("kind", "step_size", "steps"),
    [(direction.plain, 0.1, 40), (direction.momentum, 0.01, 100), (direction.adam, 0.1, 35)],
)
def test_isgd_descends_to_the_best_total_variation(kind, step_size, steps):
    _descends(isgd(Descent(kind, schedules.polynomial(0.1), step_size), 1e-3), steps)


@pytest.mark.parametrize(
    ("kind", "steps", "count", "decay"),
    [
        (direction.plain, 100, 4, 0.1),  # a constant step goes to and fro around the best weight for long
        (direction.momentum, 100, 4, 0.0), (direction.adam, 55, 2, 0.0), (direction.adabelief, 30, 2, 0.0),
    ],
)  # fmt: skip
def test_isgd_needs_no_tuning_to_get_there(kind, steps, count, decay):
    _descends(isgd(Descent(kind, schedules.polynomial(decay), 0.0), 0.0), steps, count)


def _descends(method: Isgd, steps: int, count: int = 2) -> None:
    regularizer, batch = toy_problem(count=count)
    state = method.begin(finite_sum=True)
    losses = [float(method.step(k, batch, state).loss.mean()) for k in range(steps)]
    best = min(float(_loss_at(w, regularizer, batch)) for w in torch.logspace(-2.5, 0, 26).tolist())
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < 1.03 * best


def _loss_at(weight: float, regularizer: TotalVariation, batch: Batch) -> torch.Tensor:
    other = TotalVariation(1, weight=weight, smoothing=float(regularizer.log_smoothings.detach().exp()))
    energy = Energy(Identity(), other.frozen(), batch.energy().y)
    return batch.loss.value(agd.solve(energy, energy.y, 1e-3).x).mean()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(direction.adam, torch.optim.Adam), (direction.momentum, partial(torch.optim.SGD, momentum=0.9))],
)
def test_directions_are_those_of_torch(ours, theirs):
    draws = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p, means = torch.zeros(5, dtype=torch.float64), direction.Means()
    reference = torch.nn.Parameter(p.clone())
    optimizer = theirs([reference], lr=0.1)
    for g in draws:
        reference.grad = g.clone()
        optimizer.step()
        p -= 0.1 * ours((g,), means)[0]
        torch.testing.assert_close(p, reference.detach())


def test_adabelief_takes_longer_steps_where_gradients_agree():
    """Gradients that are all alike have no variance beyond that of the mean's start; Adam sees their size only."""
    steady, noisy = direction.Means(), direction.Means()
    for k in range(200):
        calm = direction.adabelief((torch.ones(1),), steady)[0]
        shaken = direction.adabelief((torch.tensor([1.0 + 3.0 * (-1) ** k]),), noisy)[0]
    assert calm > 5 * shaken.abs()


def test_the_automatic_step_is_within_a_factor_of_two_of_the_inverse_curvature():
    """f(t) = 1/2 c t^2: alpha in (3 / (4 c), 3 / (2 c)]."""
    for c in (0.03, 1.0, 500.0):
        t = torch.full((4,), 0.5, dtype=torch.float64)
        alpha = longest_descent((t,), (c * t,), lambda t=t, c=c: float(0.5 * c * t.square().sum()), (c * t,))
        assert 0.75 / c < alpha <= 1.5 / c
        assert (t == 0.5).all()


@pytest.mark.usefixtures("double")
def test_a_found_step_is_half_of_the_longest_one_of_eight_images():
    """The longest step of a mini-batch is at the edge of what the others bear; few of its images find it."""
    clean = torch.rand(24, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    y = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    regularizer, batch = batch_of(TotalVariation(1, weight=0.005, smoothing=0.01), y, clean)
    z = hypergradient(regularizer, batch.energy(), batch.loss, solve=lbfgs.solve, start=y, accuracy=1e-3)
    longest = first_step(batch, z, lbfgs.solve, cost := Cost(), 1e-3, z.gradient)
    step = isgd(Descent(direction.plain), 1e-3).step(0, batch, IsgdState(WarmStart.empty(True)))
    assert step.step_size == pytest.approx(longest / 2)
    assert step.computations == z.computations.sum() + cost.computations


@pytest.mark.usefixtures("double")
def test_a_full_batch_is_probed_by_some_of_its_images():
    """The step is the one of these images alone, along the direction of all, and theirs is all it costs."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(40, 1, 12, 12, generator=generator)
    y = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    steps, costs = [], []
    for places in (slice(None), slice(0, 40, 5)):
        regularizer, batch = batch_of(TotalVariation(1, weight=0.005, smoothing=0.01), y, clean)
        z = hypergradient(regularizer, batch.energy(), batch.loss, solve=agd.solve, start=y, accuracy=1e-6)
        if places == slice(None):
            cost, direction = Cost(), z.gradient
            steps.append(first_step(batch, z, agd.solve, cost, 1e-6, direction))
            costs.append(cost.computations)
        else:
            part, few = batch_of(regularizer, y[places], clean[places])
            own = hypergradient(part, few.energy(), few.loss, solve=agd.solve, start=y[places], accuracy=1e-6)
            loss = tight_loss(few, agd.solve, y[places], 1e-6, cost := Cost())
            steps.append(longest_descent(tuple(part.parameters()), own.gradient, loss, direction))
            costs.append(cost.computations)
    assert steps[0] == pytest.approx(steps[1], rel=1e-6)
    assert costs[0] < 1.1 * costs[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_of_a_trial_is_not_solved_for_beyond_rounding(dtype):
    """A solver that cannot arrive makes the first step of a run many times as dear."""
    clean = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    regularizer = TotalVariation(1, weight=0.005, smoothing=0.01).to(dtype)
    batch, asked = batch_of(regularizer, clean, clean)[1], []

    def solve(energy, start, accuracy):
        asked.append(accuracy)
        found = agd.solve(energy, start, accuracy)
        assert found.converged.all()
        return found

    tight_loss(batch, solve, clean, 1e-5, Cost())()
    reachable = 8 * torch.finfo(dtype).eps * float(clean.flatten(1).norm(dim=1).max())
    assert asked == [pytest.approx(reachable if dtype == torch.float32 else 1e-7)]


@pytest.mark.parametrize("proven", [True, False])
def test_a_relative_accuracy_tightens_the_solves_until_it_holds(proven):
    _, batch = toy_problem()
    y, clean = batch.energy().y.double(), batch.loss.target.double()
    step = Descent(direction.plain, schedules.constant(), 1.0)
    moves, costs = [], []
    for method in (isgd(step, 1e-1), isgd(step, 1e-1, 0.01, proven), isgd(step, 1e-9)):
        regularizer, problem = batch_of(TotalVariation(1, weight=0.005, smoothing=0.01).double(), y, clean)
        before = parameters(regularizer)
        costs.append(method.step(0, problem, method.begin(finite_sum=True)).computations)
        moves.append(before - parameters(regularizer))
    loose, tight, exact = moves
    assert (tight - exact).norm() <= 0.01 * tight.norm() < (loose - exact).norm()
    assert costs[1] > costs[0]


def test_sgd_takes_the_step_of_the_paper():
    """theta - alpha_k z_k."""
    regularizer, batch = toy_problem()
    before = parameters(regularizer)
    energy = batch.energy()
    z = hypergradient(regularizer, energy, batch.loss, solve=lbfgs.solve, start=energy.y, accuracy=1e-2)
    method = isgd(Descent(direction.plain, schedules.polynomial(0.5), 0.3), 1e-2)
    step = method.step(3, batch, method.begin(finite_sum=True))
    expected = before - 0.3 * 4**-0.5 * torch.cat([g.flatten() for g in z.gradient])
    torch.testing.assert_close(parameters(regularizer), expected)
    assert step.step_size == 0.15


def test_a_non_finite_loss_stops_before_the_parameters_move():
    regularizer, batch = toy_problem()
    before = parameters(regularizer)
    clean = torch.full_like(batch.energy().y, torch.nan)
    method = isgd(Descent(direction.adam, schedules.constant(), 1.0), 1e-2)
    with pytest.raises(NonFiniteError):
        method.step(0, replace(batch, loss=SquaredError(clean)), method.begin(finite_sum=True))
    assert torch.equal(parameters(regularizer), before)


@pytest.mark.parametrize(("q", "p", "met"), [(0.6, 0.3, True), (1.0, 0.1, True), (0.6, 0.1, False), (0.4, 1.0, False)])
def test_schedules_outside_the_theory_are_named(q, p, met):
    assert (unmet_condition(q, p) == "") == met


def test_a_run_that_diverges_ends_with_its_last_good_state(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "run"), *ARGUMENTS, "--set", "run.steps=50"]
    wild = ["--set", "upper.optimizer=sgd", "--set", "upper.step_size=1e30", "--set", "upper.schedule=constant"]
    assert main(["train", "foe-denoise", *arguments, *wild]) == 2
    assert "not finite" in capsys.readouterr().err
    tensors, facts = checkpoint.load(tmp_path / "run" / "checkpoint" / "state.safetensors")
    assert facts["step"] == len(metrics(tmp_path / "run"))
    assert all(t.abs().max() < 100 for n, t in tensors.items() if n.startswith("parameter")), "a step of 1e30 is gone"
    assert main(["resume", str(tmp_path / "run"), "--quiet", "--set", "upper.step_size=1e-3"]) == 0
    assert len(metrics(tmp_path / "run")) == 50


@pytest.mark.parametrize(("accuracy", "warns"), [(1e3, True), (1e-2, False)])
def test_a_hypergradient_that_nothing_was_solved_for_is_told(accuracy, warns, recwarn):
    _, batch = toy_problem()
    method = isgd(Descent(direction.plain, schedules.polynomial(0.1), 0.1), accuracy)
    for k in range(3):
        method.step(k, batch, method.begin(finite_sum=False))
    told = {str(w.message) for w in recwarn if "hypergradient is zero" in str(w.message)}
    assert len(told) == warns, "one text, which Python shows once"
    assert all("upper.accuracy" in text for text in told)


def test_warm_starts_are_used_with_fixed_noise_only(tmp_path):
    """Later epochs of a finite sum start at the last solution, so they need fewer gradients."""
    iterations = {}
    for noise in ("fixed", "fresh"):
        out = tmp_path / noise
        small_steps = ["--set", "run.steps=8", "--set", "upper.batch_size=8", "--set", "upper.step_size=1e-4"]
        more = [*small_steps, "--set", f"data.noise={noise}", "--set", "data.patch_size=32"]
        assert main(["train", "foe-denoise", "--out", str(out), *ARGUMENTS, *more]) == 0
        iterations[noise] = [float(r["lower_iterations"]) for r in metrics(out)]
    assert iterations["fixed"][-1] < 0.5 * iterations["fixed"][0]
    assert iterations["fresh"][-1] > 0.6 * iterations["fresh"][0]


def test_schedules():
    assert [schedules.polynomial(0.5)(k) for k in (0, 3)] == [1.0, 0.5]
    assert [schedules.logarithmic()(k) for k in (0, 2)] == [1.0, pytest.approx(0.5)]
    plateau = schedules.with_plateau(schedules.polynomial(0.5), 4)
    assert [plateau(k) for k in (0, 3, 15)] == [1.0, 1.0, 0.5], "(k + 1)^-1/2 from the fourth step on, times 2"
    cycle = [schedules.one_cycle(100)(k) for k in range(100)]
    assert max(cycle) == pytest.approx(1.0)
    assert cycle.index(max(cycle)) == 9
    assert cycle[-1] < 0.02


@pytest.mark.usefixtures("double")
def test_a_step_is_found_and_taken_where_nothing_is_certified():
    """Accuracy infinity would make all trials the same, and the step nothing."""
    clean = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    regularizer = FieldOfExperts(1, 4, 3, "log", weight=0.5, smoothing=0.05)
    problem = Problem(Denoising(), clean=clean, noise_level=0.1, dtype=torch.float64)
    method = Isgd(descent=Descent(direction.plain), batch_size=4)
    with pytest.raises(NotStronglyConvexError, match="certified=False"):
        next(fit(regularizer, problem, method, steps=1))
    losses = [float(step.loss.mean()) for step in fit(regularizer, problem, method, steps=4, certified=False)]
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", [Isgd(descent=Descent(direction.plain), accuracy=100.0), Hoag(accuracy=100.0)])
def test_a_first_hypergradient_of_zero_finds_no_step_and_ends(method):
    """At an accuracy that the start has already, nothing is solved for."""
    clean = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    regularizer, batch = batch_of(TotalVariation(1, weight=0.005, smoothing=0.01), clean + 0.1, clean)
    before, state = parameters(regularizer), method.begin(True)
    with pytest.warns(UserWarning, match="a hypergradient is zero"):
        assert method.step(0, batch, state).step_size == 0
    assert torch.equal(parameters(regularizer), before)
    replace(method, accuracy=1e-3).step(1, batch, state)
    assert not torch.equal(parameters(regularizer), before)
