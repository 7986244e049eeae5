"""A toy task, regularizer, method, solver and figure, each added through public names only."""

import re
from dataclasses import dataclass
from pathlib import Path

import deepinv
import pytest
import torch
from matplotlib.figure import Figure

from app import Problem, Regularizer, TotalVariation, fit, load, reconstruct, save
from app.cli import main
from app.drawing import kinds
from app.drawing.kinds import Kind
from app.lower.solution import LowerSolution
from app.upper.iteration import Iteration
from app.upper.method import FullBatch
from app.upper.theta import move
from figures.axes import new_figure
from figures.style import look


class Halves(deepinv.physics.LinearPhysics):
    """A toy task: the mean of both halves of an image is measured."""

    def A(self, x, **kwargs):
        return (x[..., : x.shape[-1] // 2] + x[..., x.shape[-1] // 2 :]) / 2

    def A_adjoint(self, y, **kwargs):
        return torch.cat((y, y), -1) / 2


class Mean(Regularizer):
    """A toy regularizer: w/2 ||x - mean x||^2."""

    def __init__(self, weight: float = 0.1):
        super().__init__()
        self.log_weight = torch.nn.Parameter(torch.tensor(weight).log())

    def value(self, x):
        return self.log_weight.exp() / 2 * (x - x.mean((2, 3), keepdim=True)).square().sum((1, 2, 3))

    def curvature(self):
        return 0.0, float(self.log_weight.exp())


@dataclass(frozen=True, kw_only=True)
class Steepest(FullBatch):
    """A toy method: theta <- theta - alpha z."""

    step_size: float = 1e-3

    def begin(self, finite_sum: bool) -> None:
        return None

    def step(self, k, batch, state):
        here = Iteration.begin(k, batch)
        z = here.hypergradient(gradient_descent, here.energy.start, None, 1e-2)
        move(here.theta, z.gradient, self.step_size)
        return here.report(z, 1e-2, self.step_size)


def gradient_descent(energy, start, accuracy, max_iterations=10_000):
    """A toy solver: x <- x - 2 / (mu + L) grad h(x)."""
    (mu, largest), x, count = energy.bounds, start, torch.zeros(len(start), dtype=torch.long)
    while bool(((g := energy.gradient(x)).flatten(1).norm(dim=1) / mu > accuracy).any()) and count[0] < max_iterations:
        x, count = x - 2 / (mu + largest) * g, count + 1
    bound = g.flatten(1).norm(dim=1) / mu
    return LowerSolution(x=x, error_bound=bound, converged=bound <= accuracy, iterations=count)


def draw_name(source: str) -> Figure:
    """A toy figure: the name of its source."""
    figure = new_figure(look(), 3)
    figure.text(0.5, 0.5, source)
    return figure


def test_a_task_a_regularizer_a_method_and_a_solver(tmp_path):
    clean = torch.rand(3, 1, 8, 8)
    problem = Problem(Halves(), clean=clean, noise_level=0.01, ridge=0.05)
    regularizer = Mean()
    losses = [float(step.loss.mean()) for step in fit(regularizer, problem, Steepest(), steps=3)]
    assert losses[2] < losses[0]
    y = problem.sample(0).y
    assert y.shape == (3, 1, 8, 4)
    ours = reconstruct(regularizer, y, Halves(), ridge=0.05, accuracy=1e-3)
    toy = reconstruct(regularizer, y, Halves(), ridge=0.05, accuracy=1e-3, solver=gradient_descent)
    assert bool(ours.converged.all() & toy.converged.all())
    torch.testing.assert_close(ours.x, toy.x, atol=2e-3, rtol=0)
    save(regularizer, tmp_path / "mean.safetensors", ridge=0.05)
    again = load(tmp_path / "mean.safetensors")
    assert type(again.regularizer) is Mean
    torch.testing.assert_close(again.regularizer.log_weight, regularizer.log_weight)


def test_a_figure(tmp_path, monkeypatch):
    toy = Kind(name="toy", about="a name", source="NAME", source_is="any text", draw="tests.test_extensions:draw_name")
    monkeypatch.setattr(kinds, "TABLE", (*kinds.TABLE, toy))
    monkeypatch.setitem(kinds.KINDS, "toy", toy)
    assert main(["figure", "toy", "me", "--out", str(tmp_path / "toy.png")]) == 0
    assert (tmp_path / "toy.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("what", "most"),
    {"task": 4, "regularizer": 3, "upper-level method": 3, "lower-level solver": 2, "figure": 3}.items(),
)
def test_the_files_that_an_extension_touches_are_few_and_exist(what, most):
    folder = Path(__file__).parent.parent / "app"
    row = next(line for line in (folder / "README.md").read_text().splitlines() if re.match(rf"\| an? .*{what}", line))
    files = re.findall(r"`([\w/]+\.py)`", row.split("|")[2])
    assert 0 < len(files) <= most
    for file in (f for f in files if "NAME" not in f):
        assert (folder / file).is_file() or (folder.parent / file).is_file(), file


def test_a_total_variation_of_the_program_is_no_less_public():
    solution = reconstruct(TotalVariation(), torch.rand(1, 1, 8, 8), deepinv.physics.Denoising(), accuracy=1e-3)
    assert bool(solution.converged.all())
