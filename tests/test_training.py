"""Training moves the parameters the right way, and a run that was cut short continues bit by bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.cli import main
from app.config import load
from app.losses import SquaredError
from app.lower import agd, lbfgs
from app.lower.energy import Energy
from app.training import checkpoint
from app.upper import schedules
from app.upper.bound import error_bound
from app.upper.isgd import Batch, Isgd, NonFiniteError
from regularizers import TotalVariation
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


def same_run(a: Path, b: Path) -> None:
    assert metrics(a) == metrics(b)
    for name in ("model.safetensors", "history.safetensors"):
        x, y = (load_file(f / name) for f in (a, b))
        assert x.keys() == y.keys()
        assert all(torch.equal(x[k], y[k]) for k in x)


def start(folder: Path, steps: int, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "app", "train", "foe-denoise", "--out", str(folder), *ARGUMENTS, *more]
    return subprocess.Popen([*command, "--set", f"run.steps={steps}"], cwd=ROOT, stdout=subprocess.DEVNULL)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    for _ in range(1200):
        file = folder / "metrics.csv"
        if file.exists() and file.read_text().count("\n") > step:
            return
        assert process.poll() is None, "the run ended before it was interrupted"
        time.sleep(0.05)
    raise AssertionError("the run did not get so far")


@pytest.mark.parametrize(("noise", "every"), [("fixed", 2), ("fresh", 1000)])
def test_resume_after_a_kill_is_bit_exact(tmp_path, noise, every):
    """SIGKILL between two checkpoints, or before the first: rows past it are computed again, to the same bits."""
    setting = ("--set", f"data.noise={noise}", "--set", f"run.checkpoint_every={every}")
    process = start(tmp_path / "cut", 40, *setting)
    wait_for_step(process, tmp_path / "cut", 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "curves.png").exists()
    assert main(["resume", str(tmp_path / "cut"), "--quiet"]) == 0
    assert start(tmp_path / "whole", 40, *setting).wait() == 0
    same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_after_a_whole_step_with_a_checkpoint(tmp_path, number):
    process = start(tmp_path / "run", 10_000, "--set", "run.checkpoint_every=1000")
    wait_for_step(process, tmp_path / "run", 3)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    _, facts = checkpoint.load(tmp_path / "run" / "checkpoint" / "state.safetensors")
    assert facts["step"] == len(metrics(tmp_path / "run"))


def test_a_longer_run_can_be_asked_for_on_resume(tmp_path):
    out = str(tmp_path / "run")
    assert main(["train", "foe-denoise", "--out", out, *ARGUMENTS, "--set", "run.steps=2"]) == 0
    assert main(["resume", out, "--quiet", "--set", "run.steps=4"]) == 0
    assert [r["step"] for r in metrics(tmp_path / "run")] == ["1", "2", "3", "4"]
    assert load(tmp_path / "run" / "config.toml").run.steps == 4


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


def toy_problem(seed: int = 0) -> tuple[TotalVariation, Batch]:
    """Piecewise constant images: more weight than the initial one pays off."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(4, 1, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    y = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    regularizer = TotalVariation(1, weight=0.005, smoothing=0.01)
    return regularizer, Batch(Energy(Identity(), regularizer.frozen(), y), SquaredError(clean), y, None)


@pytest.mark.parametrize(("kind", "step_size"), [(torch.optim.SGD, 0.1), (torch.optim.Adam, 0.2)])
def test_isgd_descends_to_the_best_total_variation(kind, step_size):
    regularizer, batch = toy_problem()
    method = Isgd(lbfgs.solve, schedules.polynomial(step_size, 0.1), schedules.constant(1e-3))
    optimizer = kind(regularizer.parameters(), lr=1.0)
    losses = []
    for k in range(40):
        batch = Batch(Energy(Identity(), regularizer.frozen(), batch.energy.y), batch.loss, batch.start, None)
        losses.append(float(method.step(k, regularizer, optimizer, batch).loss.mean()))
    best = min(float(_loss_at(w, regularizer, batch)) for w in torch.logspace(-2.5, 0, 26).tolist())
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < 1.03 * best


def _loss_at(weight: float, regularizer: TotalVariation, batch: Batch) -> torch.Tensor:
    other = TotalVariation(1, weight=weight, smoothing=float(regularizer.log_smoothings.detach().exp()))
    energy = Energy(Identity(), other.frozen(), batch.energy.y)
    return batch.loss.value(agd.solve(energy, batch.start, 1e-3).x).mean()


def test_a_relative_accuracy_tightens_the_solves_until_it_is_proven():
    regularizer, batch = toy_problem()
    loose = Isgd(lbfgs.solve, schedules.constant(0.1), schedules.constant(1e-1))
    tight = replace(loose, relative_accuracy=0.01)
    exact = replace(loose, accuracy=schedules.constant(1e-9))
    with_double = [deepcopy(regularizer).double() for _ in range(3)]
    energies = [Energy(Identity(), r.frozen(), batch.energy.y.double()) for r in with_double]
    loss = SquaredError(batch.loss.clean.double())
    z = [
        method.step(0, r, torch.optim.SGD(r.parameters()), Batch(e, loss, e.y, None))
        for method, r, e in zip((loose, tight, exact), with_double, energies, strict=True)
    ]
    vectors = [torch.cat([g.flatten() for g in zi.gradient]) for zi in z]
    omega = error_bound(deepcopy(regularizer).double(), energies[1], 1.0, z[1].lower, z[1].linear).mean()
    assert (vectors[1] - vectors[2]).norm() <= omega <= 0.01 * vectors[1].norm()
    assert (z[1].computations > z[0].computations).all()


def test_sgd_takes_the_step_of_the_paper():
    """theta - alpha_k z_k, to the bit."""
    regularizer, batch = toy_problem()
    before = [p.detach().clone() for p in regularizer.parameters()]
    method = Isgd(lbfgs.solve, schedules.polynomial(0.3, 0.5), schedules.constant(1e-2))
    z = method.step(3, regularizer, torch.optim.SGD(regularizer.parameters(), lr=7.0), batch)
    for p, b, g in zip(regularizer.parameters(), before, z.gradient, strict=True):
        torch.testing.assert_close(p.detach(), b - 0.3 * 4**-0.5 * g)


def test_a_non_finite_loss_stops_before_the_parameters_move():
    regularizer, batch = toy_problem()
    before = [p.detach().clone() for p in regularizer.parameters()]
    clean = torch.full_like(batch.start, torch.nan)
    method = Isgd(lbfgs.solve, schedules.constant(1.0), schedules.constant(1e-2))
    broken = Batch(batch.energy, SquaredError(clean), batch.start, None)
    with pytest.raises(NonFiniteError):
        method.step(0, regularizer, torch.optim.Adam(regularizer.parameters()), broken)
    assert all(torch.equal(p, b) for p, b in zip(regularizer.parameters(), before, strict=True))


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
    assert [schedules.polynomial(2.0, 0.5)(k) for k in (0, 3)] == [2.0, 1.0]
    cycle = [schedules.one_cycle(1.0, 100)(k) for k in range(100)]
    assert max(cycle) == pytest.approx(1.0)
    assert cycle.index(max(cycle)) == 9
    assert cycle[-1] < 0.02
