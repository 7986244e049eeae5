"""The benchmark's rivals compute the same things, and its tables fill."""

import math
import os
import runpy
from dataclasses import replace

import pytest
import torch

from app.__main__ import WAITING
from app.lower import lbfgs
from app.lower.energy import Energy
from app.lower.solution import norm
from app.problem.losses import SquaredError
from app.upper.hypergradient import hypergradient
from regularizers import CHARBONNIER, HUBER, MCP, FieldOfExperts
from scripts.benchmarks import experiments, ranks, scaling
from scripts.benchmarks.hypergradient_methods import deep_equilibrium, ours, unrolled, vector, written_today
from scripts.benchmarks.lower_methods import Arrived, Observer
from scripts.benchmarks.problems import denoising_problem, photographs
from scripts.benchmarks.processes import WAYS, side_by_side
from scripts.benchmarks.reference import plain
from scripts.benchmarks.tape import Tape, Taped
from tests.conftest import ROOT
from tests.problems import perturbed


def field(potential=CHARBONNIER, boundary: str = "reflect") -> FieldOfExperts:
    return perturbed(
        FieldOfExperts(1, 4, 3, potential, boundary=boundary, weak_convexity=0.8, weight=0.05, smoothing=0.02)
    ).double()


def toy() -> tuple[FieldOfExperts, Energy, SquaredError]:
    regularizer = field()
    clean = photographs(ROOT, 2, 32, torch.device("cpu")).double()
    return regularizer, denoising_problem(regularizer, clean), SquaredError(clean)


@pytest.mark.parametrize("boundary", ["valid", "circular", "reflect"])
@pytest.mark.parametrize("potential", [CHARBONNIER, HUBER, MCP], ids=lambda p: p.name)
def test_closed_forms_and_kernels_agree_with_automatic_differentiation(potential, boundary):
    regularizer = field(potential, boundary)
    with torch.no_grad():
        f = regularizer.functional()
    reference = plain(f)
    x, v = torch.randn(2, 2, 1, 12, 13, dtype=torch.float64)
    torch.testing.assert_close(f.value(x), reference.value(x))
    torch.testing.assert_close(f.gradient(x), reference.gradient(x))
    torch.testing.assert_close(f.hessian(x)(v), reference.hessian(x)(v))
    for a, b in zip((*f.mixed(x, v), *f.slopes(x)), (*reference.mixed(x, v), *reference.slopes(x)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("method", "number"), [(written_today, 1e-6), (unrolled, 400), (deep_equilibrium, 400)])
def test_rival_hypergradients_converge_to_ours(method, number):
    problem = toy()
    expected = vector(ours(*problem, 1e-9).gradient)
    found = method(*problem, number, math.inf)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", experiments.LOWER_METHODS)
def test_rival_solvers_arrive(name):
    _, energy, _ = toy()
    energy = energy.take(torch.tensor([0]))
    minimiser = lbfgs.solve(energy, energy.y, 1e-8).x
    observer = Observer(energy, minimiser, 1e-3)
    with pytest.raises(Arrived):
        experiments.LOWER_METHODS[name](observer, energy.y)
    assert observer.arrived[0] == observer.gradients > 1


def test_an_observed_solver_takes_the_steps_it_takes_alone():
    _, energy, _ = toy()
    alone = lbfgs.solve(energy, energy.y, 1e-4)
    observer = Observer(energy, torch.full_like(energy.y, torch.nan), 0.0)
    watched = lbfgs.solve(observer, energy.y, 1e-4)  # type: ignore[arg-type]
    assert norm(watched.x - alone.x).max() < 1e-3


def test_every_table_fills():
    regularizer = field().float()
    clean = photographs(ROOT, 2, 32, torch.device("cpu"))
    tables = [
        experiments.operations(regularizer, clean),
        experiments.lower_solves(regularizer, clean, (0.1,)),
        experiments.hypergradients(regularizer, clean, (1e-1,)),
        experiments.training_step(regularizer, clean, 0.1),
        experiments.memory(regularizer, lambda side: clean[:1].repeat(1, 1, 2, 2)),
        experiments.whole_images(regularizer, lambda h, w: clean[:1]),
        experiments.inverse_problems(lambda h, w: clean[:1], ROOT),
        scaling.assumptions(ROOT),
        scaling.plan(ROOT, torch.device("cpu"), repetitions=1),
    ]
    for table in tables:
        rows = list(table)
        assert rows
        assert all(row.keys() == rows[0].keys() for row in rows)


def test_a_ring_moves_almost_twice_the_bytes_whatever_the_number_of_devices(monkeypatch):
    monkeypatch.setattr(scaling, "LATENCY", 0.0)
    assert scaling.reduction_seconds(1e9, 1) == 0
    for n in (2, 8, 64):
        assert scaling.reduction_seconds(1e9, n) * scaling.BANDWIDTH == pytest.approx(2e9 * (n - 1) / n)


def test_shared_training_is_compared_with_the_first_of_its_kind(monkeypatch):
    """Processes that share a step perfectly have speed 1, whether the batch is the same or grows with them."""
    monkeypatch.setattr(ranks, "seconds_of_steps", lambda n, threads, images, steps: [images / (n * threads)] * 3)
    rows = list(ranks.shared_training(repetitions=2))
    assert [row["processes"] for row in rows] == [1, 2, 1, 2, 4]
    assert [row["speed"] for row in rows] == [1.0] * 5
    monkeypatch.setattr(ranks, "seconds_of_steps", lambda n, threads, images, steps: [float(n), float(n), 1e3])
    assert [row["speed"] for row in ranks.shared_training()] == [1, 1 / 2, 1, 1 / 2, 1 / 4], "medians"


def test_the_growth_of_a_step_is_an_exponent(monkeypatch):
    """Times that are squares of what varies have exponent 2."""
    sizes = iter([1, 4, 16, 64, 1, 16, 256, 1, 4, 16, 1, 4, 16, 1, 4, 16])
    monkeypatch.setattr(scaling, "seconds", lambda device, *steps, repetitions: [next(sizes) for _ in steps])
    rows = list(scaling.growth(ROOT, torch.device("cpu")))
    assert [row["exponent"] for row in rows if row["exponent"] != ""] == pytest.approx([2.0] * 11)
    assert {row["varied"] for row in rows} == {
        "images of a batch", "pixels of an image", "filters", "group_size", "updates",
    }  # fmt: skip


def test_a_step_played_back_finds_the_same_without_a_pass_over_the_filters():
    regularizer, energy, loss = toy()
    tape = Tape()
    taped = replace(energy, functional=Taped(energy.functional, tape))
    alone = hypergradient(regularizer, energy, loss, lbfgs.solve, energy.y, accuracy=1e-3)
    recorded = hypergradient(regularizer, taped, loss, lbfgs.solve, energy.y, accuracy=1e-3)
    passes = dict(tape.images)
    tape.rewind()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(energy.functional), "gradient", None)
        played = hypergradient(regularizer, taped, loss, lbfgs.solve, energy.y, accuracy=1e-3)
    assert torch.equal(recorded.lower.x, alone.lower.x)
    assert torch.equal(played.lower.x, alone.lower.x)
    assert torch.equal(played.linear.q, alone.linear.q)
    assert dict(tape.images) == passes
    assert passes["gradient"] + passes["curvature model"] == int(alone.lower.iterations.sum()) + len(energy.y)
    assert passes["product"] == int(alone.linear.iterations.sum())


def test_programs_side_by_side_are_timed_for_every_way_to_wait():
    rows = list(side_by_side(("-c", "pass"), repetitions=1))
    assert [row["threads that wait"] for row in rows] == list(WAYS)
    assert all(row["factor"] > 0 for row in rows)
    with pytest.raises(RuntimeError, match="failed"):
        list(side_by_side(("-c", "exit(1)"), repetitions=1))


@pytest.mark.parametrize(("given", "expected"), [({}, "passive"), ({"GOMP_SPINCOUNT": "9"}, None)])
def test_threads_of_the_command_line_sleep_while_they_wait_unless_the_user_chose(monkeypatch, given, expected):
    for name in (*WAITING, "SOURCE_DATE_EPOCH"):
        monkeypatch.setenv(name, "restored afterwards")
        monkeypatch.delenv(name)
    for name, value in {"MPLBACKEND": "agg", "MATPLOTLIBRC": "", **given}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("app.interrupt.install", lambda: None)
    chosen: list[str | None] = []
    monkeypatch.setattr("app.cli.main", lambda: chosen.append(os.environ.get("OMP_WAIT_POLICY")) or 0)
    with pytest.raises(SystemExit):
        runpy.run_module("app", run_name="__main__")
    assert chosen == [expected]
