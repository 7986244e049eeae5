"""Upper-level losses: gradients, smoothness, hypergradients; and learning from noisy images alone."""

import deepinv.physics as physics
import pytest
import torch

from app import Isgd, Problem, TotalVariation, fit, hypergradient
from app.problem.losses import LOSSES, CharbonnierLoss, HuberLoss, SquaredError
from app.problem.problem import ALPHA
from tests.problems import perturbed


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_autograd_and_are_as_smooth_as_they_say(name, double):
    target, x, other = (torch.randn(3, 2, 4, 5) for _ in range(3))
    loss = LOSSES[name](target, 0.7)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss.value(leaf).sum(), leaf)
    torch.testing.assert_close(loss.gradient(x), expected)
    change = (loss.gradient(x) - loss.gradient(other)).norm()
    assert change <= loss.smoothness * (x - other).norm() * (1 + 1e-12)
    near = target + 1e-6 * x
    torch.testing.assert_close(loss.value(near), SquaredError(target, 0.7).value(near), rtol=1e-6, atol=0)


def test_a_part_of_a_batch_keeps_weight_and_width():
    loss = HuberLoss(torch.rand(3, 1, 2, 2), 0.25, width=0.3)
    part = loss.take(torch.tensor([2, 0]))
    assert (part.weight, part.width) == (0.25, 0.3)
    assert torch.equal(part.target, loss.target[[2, 0]])


@pytest.mark.parametrize("loss", [HuberLoss, CharbonnierLoss])
def test_hypergradients_of_robust_losses_agree_with_central_differences(loss, double):
    regularizer = perturbed(TotalVariation(1, weight=0.1, smoothing=0.1))
    problem = Problem(
        physics.Denoising(), clean=torch.rand(2, 1, 8, 8), noise_level=0.2, loss=loss, dtype=torch.float64
    )
    z = hypergradient(regularizer, problem, accuracy=1e-10)
    for p, found in zip(regularizer.parameters(), z.gradient, strict=True):
        values = []
        for step in (1e-5, -2e-5):
            p.data += step
            values.append(hypergradient(regularizer, problem, accuracy=1e-10).loss.mean())
        p.data += 1e-5
        torch.testing.assert_close(found.sum(), (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def noisy_problem(count: int) -> tuple[Problem, torch.Tensor]:
    y = 0.5 + 0.1 * torch.randn(count, 1, 8, 8)
    return Problem(physics.Denoising(), clean=y, noise_level=0.1, noisy=True), y


def test_recorrupted_noises_are_independent():
    """y = 1/2 + 0.1 n: the noises of s y+ and of the target have the variances of the formulas and no covariance."""
    problem, _ = noisy_problem(2000)
    sample = problem.sample(0)
    s = (1 + ALPHA**2) ** 0.5
    plus, minus = s * sample.y - 0.5, sample.target - 0.5
    assert float(plus.var()) == pytest.approx(0.01 * (1 + ALPHA**2), rel=0.02)
    assert float(minus.var()) == pytest.approx(0.01 * (1 + ALPHA**-2), rel=0.02)
    correlation = float((plus * minus).mean() / (plus.std() * minus.std()))
    assert abs(correlation) < 4 / plus.numel() ** 0.5


def test_the_weight_of_R_is_that_for_the_noise_of_y():
    """1/2 ||x / s - y+ / s||^2 + R(x) has the minimiser of 1/2 ||x - y+||^2 + s^2 R(x)."""
    problem, _ = noisy_problem(2)
    sample = problem.sample(0)
    s_squared = 1 + ALPHA**2
    x = torch.rand(2, 1, 8, 8)
    data_term = sample.operator.normal(x) - sample.operator.adjoint(sample.y)
    torch.testing.assert_close(data_term, (x - s_squared**0.5 * sample.y) / s_squared)
    assert problem.operator().lambda_min == sample.operator.lambda_min == pytest.approx(1 / s_squared)


def test_a_noisy_image_exists_once(tmp_path):
    """Whatever its visits, what is learned from is one noisy image: the mean of all targets and inputs tends to it."""
    problem, y = noisy_problem(4)
    for step in (0, 1):
        sample = problem.sample(step)
        between = (ALPHA**2 * sample.target + (1 + ALPHA**2) ** 0.5 * sample.y) / (1 + ALPHA**2)
        torch.testing.assert_close(between, y[list(sample.images)])


def test_learning_from_noisy_images_finds_the_weight_that_clean_images_find():
    torch.manual_seed(1)
    clean = torch.rand(64, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    noisy = clean + 0.1 * torch.randn_like(clean)
    weights = {}
    for name, problem in {
        "clean": Problem(physics.Denoising(), clean=clean, measurements=noisy, noise_level=0.1),
        "noisy": Problem(physics.Denoising(), clean=noisy, noise_level=0.1, noisy=True),
    }.items():
        regularizer = TotalVariation(1, weight=0.01, smoothing=0.01)
        for _ in fit(regularizer, problem, Isgd(batch_size=64), steps=60):
            pass
        weights[name] = float(regularizer.log_weights)
    assert weights["clean"] > -4.0, "it has learned"
    assert weights["noisy"] == pytest.approx(weights["clean"], abs=0.15)
