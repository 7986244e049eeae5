"""MEHA: its three lines on problems whose optimum is known, a step against autograd, and whole runs."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from app.cli import main
from app.lower import lbfgs
from app.lower.energy import Energy
from app.lower.preconditioner import preconditioner
from app.lower.stationary import certified_or_stationary
from app.problem.losses import SquaredError
from app.upper import direction as directions
from app.upper.descent import Descent
from app.upper.method import Batch
from app.upper.methods.meha import Meha, largest_curvature
from app.upper.methods.moreau import Sizes, Slopes, identity, iterate, lower_step, proven_sizes, proximal_step
from app.upper.state import copy
from regularizers import LOG, FieldOfExperts, Regularizer
from tests.problems import Identity, perturbed
from tests.test_hypergradient import Tikhonov
from tests.test_training import ARGUMENTS

SOLVE = certified_or_stationary(partial(lbfgs.solve, max_iterations=1000))


def run(slopes_at, theta, u, sizes, alpha: float, steps: int):
    """Plain tensors through the lines that images take; c_k = c (k + 1)^p -> (theta, u)."""
    w = u
    for k in range(steps):

        def move(d):
            nonlocal theta
            theta = theta - alpha * d[0]
            return slopes_at(theta)

        u, w = iterate(slopes_at(theta), u, w, sizes(k), move)
    return theta, u


@pytest.mark.usefixtures("double")
def test_a_merely_convex_lower_level():
    """min 1/2 ||x - y_2||^2 + 1/2 ||y_1 - e||^2 with y in argmin 1/2 ||y_1||^2 - <x, y_1>: x = y_1 = y_2 = e."""
    e = torch.ones(20)

    def slopes(x):
        return Slopes(
            lambda y: torch.stack([y[0] - e, y[1] - x]),
            lambda y: (x - y[1],),
            lambda y: torch.stack([y[0] - x, 0 * x]),
            lambda y: (-y[0],),
        )

    def sizes(k):
        return proven_sizes(0.0, 1.0, 1.0, 10.0, 2 * (k + 1) ** 0.25)

    x, y = run(slopes, 3 * e, torch.stack([-e, 2 * e]), sizes, 0.1, 3000)
    torch.testing.assert_close(x, e, atol=1e-3, rtol=0)
    torch.testing.assert_close(y, torch.stack([e, e]), atol=1e-3, rtol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("n", [1, 10])
def test_a_non_convex_lower_level(n):
    """min (x - a)^2 + ||y - a - c||^2 with y_i in argmin sin(x + y_i - c_i): for a = c = 2, x + y_i - c_i = C with
    C = 3 pi / 2, and then x = ((1 - n) a + n C) / (1 + n)."""
    a, c, lowest = 2.0, 2.0, 1.5 * torch.pi

    def slopes(x):
        return Slopes(
            lambda y: 2 * (y - a - c),
            lambda y: (2 * (x - a),),
            lambda y: (x + y - c).cos(),
            lambda y: ((x + y - c).cos().sum(),),
        )

    best = ((1 - n) * a + n * lowest) / (1 + n)
    distances = []
    for penalty in (10.0, 100.0):
        sizes = proven_sizes(-1.0, 1.0, 2.0, 0.25, penalty)
        x, y = run(slopes, torch.tensor(3.0), torch.full((n,), 3.0), lambda k, s=sizes: s, 0.3 / n, 8_000)
        distances.append(float((x - best).abs() + (y - (lowest + c - best)).abs().max()))
    assert distances[1] < 0.05
    assert distances[1] < 0.3 * distances[0], "the bias of a fixed penalty is of order 1 / c"


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("gamma", [0.05, 0.25, 1.0])
@pytest.mark.parametrize("mu", [-0.9, 0.0, 2.0])
def test_with_the_proven_steps_the_merit_function_decreases(mu, gamma):
    """Diagonal quadratics of every curvature in [mu, 30], where the envelope is known."""
    h, start, c = torch.linspace(mu, 30, 200), torch.randn(2, 200, generator=torch.Generator().manual_seed(0)), 3.0
    sizes = proven_sizes(mu, 30.0, 1.0, gamma, c)
    slopes = Slopes(lambda u: u - 1, None, lambda u: h * u, lambda u: ())
    weight = sizes.beta / (gamma**2 * sizes.eta * (mu + 1 / gamma))
    u, w, before = *start, torch.full((200,), torch.inf)
    for _ in range(300):
        w = proximal_step(slopes, u, w, sizes)
        u = lower_step(slopes, u, w, sizes)
        envelope = h / (1 + gamma * h) * u.square() / 2
        merit = (u - 1).square() / (2 * c) + h * u.square() / 2 - envelope + weight * (w - u / (1 + gamma * h)).square()
        assert (merit <= before + 1e-12).all()
        before = merit


def problem(r: Regularizer, y: torch.Tensor, clean: torch.Tensor) -> Batch:
    return Batch(r, lambda: Energy(Identity(), r.frozen(), y), SquaredError(clean), tuple(range(len(y))))


def pair(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(2))
    return clean, clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("kind", "steps"), [(directions.plain, 800), (directions.adam, 600)])
def test_the_best_tikhonov_weight_is_found_without_tuning(kind, steps):
    """x = y / (1 + e^t) is closest to the clean images where 1 / (1 + e^t) = <y, clean> / ||y||^2."""
    clean, y = pair(4, 4)
    r = Tikhonov(1.0)
    method = Meha(solve=SOLVE, descent=Descent(kind))
    state = method.begin(finite_sum=True)
    for k in range(steps):
        step = method.step(k, problem(r, y, clean), state)
    share = 1 / (1 + r.t.detach().exp())
    torch.testing.assert_close(share, (y * clean).sum() / y.square().sum(), rtol=5e-2, atol=0)
    assert step.error_bound.isinf().all()
    assert not step.certified.any()
    assert step.computations == 4 * 4, "two gradients, a product and a preconditioner per image"
    assert (step.lower_iterations.tolist(), step.linear_iterations.tolist()) == ([2] * 4, [1] * 4)


@pytest.mark.usefixtures("double")
def test_with_equal_steps_the_difference_of_u_and_w_does_not_see_that_theta_has_moved():
    """h = 1/2 <u - theta, H (u - theta)> without a proximal term: u - w is the same however theta was moved before."""
    h, e = torch.linspace(0.2, 5, 50), torch.ones(50)
    differences = []
    for shift in (0.0, 3.0):
        theta = torch.linspace(-1, 1, 50) + shift
        sizes = Sizes(torch.inf, 1 / 6, 1 / 6, 10.0)
        slopes = Slopes(lambda u: -e, None, lambda u, t=theta: h * (u - t), lambda u: ())
        u, w = torch.zeros(50), torch.ones(50)
        for _ in range(20):
            w, u = proximal_step(slopes, u, w, sizes), lower_step(slopes, u, w, sizes)
        differences.append(u - w)
    torch.testing.assert_close(*differences)


@pytest.mark.usefixtures("double")
def test_the_curvature_in_a_metric_is_found_from_below():
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(2, 2, 64, 64, generator=generator)
    k, p = roots[0] @ roots[0].mT, roots[1] @ roots[1].mT / 64 + torch.eye(64)
    exact = torch.linalg.eigvals(torch.linalg.solve(p, k)).real.max(1).values

    def apply(matrix):
        return lambda v: (matrix @ v.flatten(1)[:, :, None]).view_as(v)

    v, before = torch.randn(2, 1, 8, 8, generator=generator), torch.zeros(2)
    for count in (1, 10, 300):
        found, _ = largest_curvature(apply(k), apply(torch.linalg.inv(p)), v, count)
        assert (found.flatten() >= before).all()
        assert (found.flatten() <= exact * (1 + 1e-12)).all()
        before = found.flatten()
    torch.testing.assert_close(before, exact, rtol=1e-2, atol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_step_is_that_of_autograd_and_c_divides(preconditioned):
    clean, y = pair(2, 8)
    r = perturbed(FieldOfExperts(1, 4, 3, LOG, weight=0.5, smoothing=0.3))
    u, w = (y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(i)) for i in (4, 5))
    gamma, eta, beta, alpha, c = 0.1, 0.05, 0.04, 0.02, 3.0 * 4**0.25
    parameters = tuple(r.parameters())

    def h(x):
        return 0.5 * (x - y).square().sum() + r.fn(x).sum()

    def slope(f, at):
        at = at.clone().requires_grad_()
        return torch.autograd.grad(f(at), at)[0]

    inverse = preconditioner(problem(r, y, clean).energy(), u) if preconditioned else identity
    w_new = w - eta * (inverse(slope(h, w)) + (w - u) / gamma)
    gap = torch.autograd.grad((h(u) - h(w_new)) / 2, parameters)  # the mean of two images
    expected = [p.detach() - alpha * c * g for p, g in zip(parameters, gap, strict=True)]
    descent = Descent(directions.plain, step_size=alpha)
    method = Meha(
        solve=SOLVE, descent=descent, c=3.0, p=0.25, gamma=gamma, eta=eta, beta=beta, preconditioned=preconditioned
    )
    state = method.begin(finite_sum=True)
    state.u.remember((0, 1), u)
    state.w.remember((0, 1), w)
    method.step(3, problem(r, y, clean), state)
    for p, e in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), e)

    def penalised(t):  # at the new theta
        return 0.5 * (t - clean).square().sum() / c + h(t)

    torch.testing.assert_close(torch.stack([*state.w.tensors.values()]), w_new)
    u_new = u - beta * (inverse(slope(penalised, u)) - (u - w_new) / gamma)
    torch.testing.assert_close(torch.stack([*state.u.tensors.values()]), u_new)


def test_only_the_images_of_the_batch_move():
    clean, y = pair(3, 8)
    r = FieldOfExperts(1, 4, 3, LOG, weight=0.5, smoothing=0.3)
    method = Meha(solve=SOLVE, c=3.0)
    state = method.begin(finite_sum=True)
    batch = problem(r, y, clean)
    method.step(0, batch, state)
    before = copy(state)
    part = replace(
        batch, energy=lambda: batch.energy().take(torch.tensor([1])), loss=SquaredError(clean[1:2]), images=(1,)
    )
    method.step(1, part, state)
    for old, new in ((before.u, state.u), (before.w, state.w)):
        moved = [not torch.equal(old.tensors[i], new.tensors[i]) for i in range(3)]
        assert moved == [False, True, False]


@pytest.fixture
def fixed(tmp_path) -> list[str]:
    """MEHA on a finite sum, validated on one small image."""
    image = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8).repeat(3, 0).repeat(3, 1)
    Image.fromarray(image).save(tmp_path / "image.png")
    more = {
        "upper.algorithm": "meha", "data.noise": "fixed", "upper.schedule": "constant",
        "data.validation": tmp_path / "image.png",
    }  # fmt: skip
    return [*ARGUMENTS, *(word for key, value in more.items() for word in ("--set", f"{key}={value}"))]


def test_a_run_can_be_resumed_bit_by_bit(tmp_path, fixed):
    for name, steps in (("whole", 6), ("cut", 3)):
        assert main(["train", "foe-denoise", "--out", str(tmp_path / name), *fixed, "--set", f"run.steps={steps}"]) == 0
    assert main(["resume", str(tmp_path / "cut"), "--quiet", "--set", "run.steps=6"]) == 0
    whole, cut = (load_file(tmp_path / name / "checkpoint" / "state.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole if name != "books.rows")  # which hold seconds
    assert any(name.startswith("state.image.w.") for name in whole)


LOG_FIELD = [
    "--set", "regularizer.potential=log", "--set", "regularizer.weight=0.4", "--set", "regularizer.smoothing=0.02",
]  # fmt: skip


def test_a_non_convex_field_of_experts_is_learned_and_evaluated(tmp_path, capsys, fixed):
    out, image = str(tmp_path / "run"), str(tmp_path / "image.png")
    assert main(["train", "foe-denoise", "--out", out, *fixed, *LOG_FIELD, "--set", "run.steps=4"]) == 0
    assert "mu = -" in capsys.readouterr().out
    assert main(["evaluate", out, "--images", image, "--quiet"]) == 0
    assert "not certified" in capsys.readouterr().out
    isgd = ["--set", "upper.algorithm=isgd"]
    assert main(["train", "foe-denoise", "--out", f"{out}2", *fixed, *LOG_FIELD, *isgd]) == 2
    assert "not provably strongly convex" in capsys.readouterr().err


def test_a_convex_field_of_experts_is_evaluated_with_certificates(tmp_path, capsys, fixed):
    out, image = str(tmp_path / "run"), str(tmp_path / "image.png")
    assert main(["train", "foe-denoise", "--out", out, *fixed, "--set", "run.steps=4"]) == 0
    assert main(["evaluate", out, "--images", image, "--quiet"]) == 0
    assert " 1/1 " in capsys.readouterr().out


def test_fresh_noise_is_refused(tmp_path, capsys, fixed):
    arguments = ["train", "foe-denoise", "--out", str(tmp_path / "run"), *fixed, "--set", "data.noise=fresh"]
    assert main(arguments) == 2
    assert "set data.noise = fixed" in capsys.readouterr().err


@pytest.mark.usefixtures("double")
def test_the_curvature_of_what_is_not_convex_gives_no_step_uphill():
    k = torch.tensor([1.0, -0.99, 0.5, 0.0]).view(1, 1, 2, 2)
    starts = torch.randn(500, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    starts[0], starts[1] = (
        torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 2, 2),
        torch.tensor([0.99**0.5, 1.0, 0, 0]).view(1, 2, 2),
    )
    found, _ = largest_curvature(lambda v: k * v, identity, starts, 1)
    assert found.isfinite().all() and (found > 0).all()
