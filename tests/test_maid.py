"""The method of adaptive inexact descent: known optima, certified descent, one step by dense algebra, exact resume."""

import pytest
import torch

from app.cli import main
from app.lower import agd, lbfgs
from app.lower.energy import Energy
from app.problem.losses import SquaredError
from app.upper.bound import estimated_error
from app.upper.hypergradient import hypergradient
from app.upper.method import Batch
from app.upper.methods.gd_polyak import GdPolyak
from app.upper.methods.hoag import Hoag
from app.upper.methods.maid import LAMBDA, Maid
from app.upper.state import restore, tensors
from regularizers import Regularizer
from tests.problems import Identity, dense, regularizer_named
from tests.test_hypergradient import Tikhonov
from tests.test_training import ARGUMENTS, batch_of, metrics, parameters, toy_problem

pytestmark = pytest.mark.usefixtures("double")


class WeightedTikhonov(Regularizer):
    """R(x) = 1/2 sum_j exp(t_j) ||x_j||^2 over the rows j of the image: x_j = y_j / (1 + exp(t_j))."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.t = torch.nn.Parameter(torch.zeros(rows))

    def functional(self):
        return _Weighted(self.t.exp())


class _Weighted:
    def __init__(self, weights):
        self.weights = weights.view(1, 1, -1, 1)
        self.natural = (weights,)

    def value(self, x):
        return 0.5 * (self.weights * x.square()).sum((1, 2, 3))

    def gradient(self, x):
        return self.weights * x

    def hessian(self, x):
        return lambda v: self.weights * v

    def curvature_model(self, x):
        return x.new_zeros(len(x), 1, 1, 1, 1), self.weights.expand_as(x)

    def mixed(self, x, q):
        return ((x * q).sum((0, 1, 3)),)

    def take(self, images):
        return self

    def curvature(self):
        return -float(self.weights.min()), float(self.weights.max())


def quadratic_problem(regularizer: Regularizer, shape=(3, 1, 4, 4)) -> tuple[Batch, torch.Tensor]:
    """A batch, and the exact optimum of t for a regularizer with one weight, or one per row."""
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(shape, generator=generator)
    shrink = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(1, 1, 4, 1)
    clean = shrink * y + 0.1 * torch.randn(shape, generator=generator)
    axes = (0, 1, 3) if next(regularizer.parameters()).ndim else (0, 1, 2, 3)
    best = (y * clean).sum(axes) / y.square().sum(axes)  # of x = s y, and s = 1 / (1 + exp(t))
    energy = lambda: Energy(Identity(), regularizer.frozen(), y)  # noqa: E731
    return Batch(regularizer, energy, SquaredError(clean), tuple(range(len(y)))), (1 / best - 1).log()


def exact_loss(regularizer, batch: Batch) -> float:
    return float(batch.loss.value(lbfgs.solve(batch.energy(), batch.energy().y, 1e-11).x).mean())


@pytest.mark.parametrize("bb", [True, False])
@pytest.mark.parametrize("make", [lambda: Tikhonov(0.0), lambda: WeightedTikhonov(4)], ids=["scalar", "vector"])
def test_the_known_optimum_of_a_quadratic_problem_is_found(make, bb):
    regularizer = make()
    batch, optimum = quadratic_problem(regularizer)
    method = Maid(solve=agd.solve, barzilai_borwein=bb)
    state = method.begin(finite_sum=True)
    for k in range(40):
        method.step(k, batch, state)
    torch.testing.assert_close(regularizer.t.detach(), optimum, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["tv isotropic", "foe charbonnier valid"])
def test_every_accepted_step_decreases_the_exact_loss_as_promised(name):
    """f(theta_{k+1}) + lambda eta alpha ||z||^2 <= f(theta_k), from a crude first accuracy."""
    regularizer = regularizer_named(name)
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 1, 4, 4, generator=generator).repeat_interleave(2, 2).repeat_interleave(2, 3)
    _, batch = batch_of(regularizer, clean + 0.1 * torch.randn(2, 1, 8, 8, generator=generator), clean)
    method = Maid(accuracy=1.0)
    state = method.begin(finite_sum=True)
    losses, steps = [exact_loss(regularizer, batch)], []
    for k in range(8):
        before = parameters(regularizer)
        step = method.step(k, batch, state)
        moved = float((parameters(regularizer) - before).square().sum())
        losses.append(exact_loss(regularizer, batch))
        steps.append(step.step_size)
        assert losses[-1] <= losses[-2] - LAMBDA * method.eta * moved / step.step_size + 1e-12
    assert min(steps) > 0
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    "method",
    [
        Maid(step_size=1e-4, accuracy=1e-2, eta=0.9),
        Hoag(step_size=1e-4, accuracy=1e-6),
        GdPolyak(step_size=1e-4, accuracy=1e-6),
    ],
    ids=["maid", "hoag", "gd_polyak"],
)
def test_one_step_agrees_with_dense_linear_algebra(method):
    """theta - alpha z, z = mean_b -J_b^T H_b^-1 (x_b - clean_b), to what MAID's estimate asserts, or to 1e-4."""
    regularizer = regularizer_named("foe charbonnier valid")
    generator = torch.Generator().manual_seed(4)
    clean = torch.randn(2, 1, 8, 8, generator=generator)
    y = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    _, batch = batch_of(regularizer, y, clean)
    exact = []
    x = agd.solve(batch.energy(), y, 1e-11).x
    for b in range(2):
        point = x[b : b + 1].clone().requires_grad_()
        (g,) = torch.autograd.grad(regularizer.fn(point).sum(), point, create_graph=True)
        rows = [torch.autograd.grad(e, point, retain_graph=True)[0].flatten() for e in g.flatten()]
        matrix = torch.stack(rows) + dense(lambda v: v, (1, 8, 8))
        q = torch.linalg.solve(matrix, (x[b] - clean[b]).flatten())
        jtq = torch.autograd.grad((g.flatten() * q).sum(), tuple(regularizer.parameters()))
        exact.append(-torch.cat([j.flatten() for j in jtq]) / 2)
    before = parameters(regularizer)
    step = method.step(0, batch, method.begin(finite_sum=True))
    assert step.step_size == 1e-4
    moved = (before - parameters(regularizer)) / step.step_size
    assert (moved - sum(exact)).norm() <= (1 - getattr(method, "eta", 1 - 1e-4)) * moved.norm()


def test_the_estimate_of_the_error_is_right_within_a_factor_of_four():
    regularizer = regularizer_named("foe charbonnier valid")
    y = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    _, batch = batch_of(regularizer, y, 0.5 * y)
    z = [
        hypergradient(regularizer, batch.energy(), batch.loss, solve=agd.solve, start=y, accuracy=eps)
        for eps in (1e-1, 1e-2, 1e-3, 1e-4, 1e-11)
    ]
    flat = [torch.cat([g.flatten() for g in one.gradient]) for one in z]
    for coarse, fine, exact in zip(z[:3], z[1:4], flat[1:4], strict=True):
        error = float((exact - flat[-1]).norm())
        assert error / 4 < estimated_error(coarse, fine) < 10 * error


def test_the_proven_error_is_kept_below_its_share():
    regularizer, batch = toy_problem()
    y, clean = batch.energy().y.double(), batch.loss.target.double()
    regularizer, batch = batch_of(regularizer.double(), y, clean)
    energy = batch.energy()
    exact = hypergradient(regularizer, energy, batch.loss, solve=lbfgs.solve, start=y, accuracy=1e-10)
    before = parameters(regularizer)
    method = Maid(accuracy=1.0, proven=True)
    step = method.step(0, batch, method.begin(finite_sum=True))
    z = (before - parameters(regularizer)) / step.step_size
    assert (z - torch.cat([g.flatten() for g in exact.gradient])).norm() <= 0.5 * z.norm()


def test_a_long_memory_lets_the_loss_rise_and_a_memory_of_one_does_not():
    moved = []
    for memory, highs in ((2, ()), (2, (1e3,)), (1, (1e3,))):
        regularizer = Tikhonov(0.0)
        batch, _ = quadratic_problem(regularizer)
        method = Maid(solve=agd.solve, step_size=100.0, accuracy=1e-6, memory=memory)
        state = method.begin(finite_sum=True)
        state.highs = highs
        moved.append(method.step(0, batch, state).step_size)
    assert moved[0] < moved[1] == 100.0
    assert moved[2] == moved[0], "what a longer memory left behind"


def test_where_floating_point_certifies_no_more_theta_stays_at_little_cost():
    regularizer = Tikhonov(0.0)
    batch, optimum = quadratic_problem(regularizer)
    method = Maid(solve=agd.solve)
    state = method.begin(finite_sum=True)
    steps = [method.step(k, batch, state) for k in range(60)]
    assert steps[-1].step_size == 0
    torch.testing.assert_close(regularizer.t.detach(), optimum, atol=1e-6, rtol=0)
    assert steps[-1].computations <= 30
    assert torch.isfinite(regularizer.t)


def test_a_restored_state_continues_bit_by_bit():
    regularizer, batch = toy_problem()
    method = Maid(memory=3)
    state = method.begin(finite_sum=True)
    for k in range(3):
        method.step(k, batch, state)
    saved, theta = {n: t.clone() for n, t in tensors(state).items()}, parameters(regularizer)
    for k in range(3, 5):
        method.step(k, batch, state)
    other, batch = toy_problem()
    torch.nn.utils.vector_to_parameters(theta, other.parameters())
    restored = method.begin(finite_sum=True)
    restore(restored, saved, torch.device("cpu"))
    for k in range(3, 5):
        method.step(k, batch, restored)
    assert torch.equal(parameters(other), parameters(regularizer))


FULL_BATCH = [*ARGUMENTS[:6], *ARGUMENTS[8:]]  # without upper.batch_size, which these methods do not read


@pytest.mark.parametrize("algorithm", ["maid", "hoag", "gd_polyak"])
def test_training_and_resuming_from_the_command_line(algorithm, tmp_path):
    setting = [
        *FULL_BATCH, "--set", f"upper.algorithm={algorithm}", "--set", "data.noise=fixed", "--set", "data.count=3",
        "--set", "run.checkpoint_every=1", "--set", "run.validate_every=0",
        "--set", "upper.accuracy=1e-3",
    ]  # fmt: skip
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert main(["train", "foe-denoise", "--out", str(whole), *setting, "--set", "run.steps=3"]) == 0
    assert main(["train", "foe-denoise", "--out", str(cut), *setting, "--set", "run.steps=2"]) == 0
    assert main(["resume", str(cut), "--quiet", "--set", "run.steps=3"]) == 0
    ours, theirs = ([{k: v for k, v in r.items() if k != "validation_psnr"} for r in metrics(f)] for f in (cut, whole))
    assert ours == theirs
    losses = [float(r["loss"]) for r in ours]
    assert losses[2] < losses[0]


def test_fresh_noise_is_refused_in_one_line(tmp_path, capsys):
    arguments = [*FULL_BATCH, "--set", "upper.algorithm=maid", "--set", "data.noise=fresh", "--set", "run.steps=1"]
    assert main(["train", "foe-denoise", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert "data.noise = fixed" in capsys.readouterr().err
