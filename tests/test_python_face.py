"""What researchers try from Python works, or is refused in words of theirs."""

import warnings

import deepinv
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, Inpainting, LinearPhysics, Pansharpen, Physics

from app import (
    Adaptive,
    FieldOfExperts,
    InputConvexNetwork,
    Isgd,
    Problem,
    Rescaled,
    TotalVariation,
    fit,
    hypergradient,
    load,
    reconstruct,
    save,
)
from app.problem.operators import OperatorError
from app.problem.problem import ProblemError
from figures.regions import most_different
from regularizers import Regularizer, RegularizerError, for_channels

CLEAN = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
NOISY = Denoising(GaussianNoise(0.1))


def problem(**values) -> Problem:
    return Problem(NOISY, clean=CLEAN, **values)


class Quadratic(Regularizer):
    """weight/2 ||x||^2, whose proximal map is x / (1 + gamma weight); with an attribute of its own."""

    def __init__(self, weight: float = 40.0):
        super().__init__()
        self.weight, self.noise_level = weight, 7.0

    def value(self, x):
        return self.weight / 2 * x.square().sum((1, 2, 3)) * (self.noise_level / 7)

    def curvature(self):
        return 0.0, self.weight


# As a deepinv prior


def test_the_proximal_map_is_the_minimiser():
    x = CLEAN.double()
    torch.testing.assert_close(Quadratic().prox(x, gamma=2.0), x / 81, atol=1e-6, rtol=0)
    tv = TotalVariation(weight=0.05).double()
    exact = reconstruct(tv, x, Denoising(), accuracy=1e-6).x
    assert float((tv.prox(x, None, gamma=1.0).detach() - exact).norm()) <= 1e-5 * float(x.norm()) + 1e-6
    with pytest.warns(UserWarning, match="2 gradients did not suffice"):
        tv.prox(x, max_iter_inter=2)
    with pytest.raises(RegularizerError, match="not provably convex"):
        FieldOfExperts(1, 4, 3, "mcp", smoothing=0.005).prox(CLEAN, gamma=2.0)


def test_proximal_gradient_descent_of_deepinv_finds_the_minimiser():
    tv, y = TotalVariation(weight=0.05), CLEAN
    found = deepinv.optim.PGD(deepinv.optim.L2(), tv, stepsize=1.0, max_iter=3)(y, Denoising())
    torch.testing.assert_close(found.detach(), reconstruct(tv, y, Denoising(), accuracy=1e-4).x, atol=1e-3, rtol=0)


def test_a_prior_is_the_one_of_the_noise_level_it_is_asked_for():
    r = TotalVariation(noise_nodes=2)
    torch.testing.assert_close(r.fn(CLEAN, 50 / 255), r.at(50 / 255).value(CLEAN))
    torch.testing.assert_close(r.grad(CLEAN, torch.tensor([10 / 255])), r.at(10 / 255).grad(CLEAN))
    assert bool(r.fn(CLEAN, 50 / 255)[0] > 1.5 * r.fn(CLEAN, 10 / 255)[0])
    with pytest.raises(RegularizerError, match="one noise level at a time, not 2"):
        r.fn(CLEAN, torch.tensor([10 / 255, 20 / 255]))


def test_an_adaptive_prior_asks_for_what_it_is_conditioned_on():
    r = Adaptive(FieldOfExperts(filters=4, filter_size=3), 4)
    for asked in (r.fn, r.grad, r.prox, for_channels(r, 3).fn):
        with pytest.raises(RegularizerError, match=r"R\(.; z\), and has no z here"):
            asked(CLEAN)
    torch.testing.assert_close(r.conditioned_on(CLEAN).fn(CLEAN), r.conditioned_on(CLEAN).value(CLEAN))


def test_an_attribute_of_ones_own_stays_what_it_is():
    r = Quadratic()
    for view in (r.at(0.2), for_channels(r, 3)):
        assert getattr(view, "base", view).noise_level == 7.0
    torch.testing.assert_close(Rescaled(r).functional().value(CLEAN), r.value(CLEAN))


# Physics


def test_each_image_may_have_its_own_physics():
    masks = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.4).float()
    several = [Inpainting((1, 16, 16), mask=m) for m in masks]
    found = reconstruct(TotalVariation(), CLEAN * masks, several, ridge=0.1)
    for i, own in enumerate(several):
        alone = reconstruct(TotalVariation(), CLEAN[i : i + 1] * masks[i], own, ridge=0.1)
        assert torch.equal(found.x[i], alone.x[0]) and torch.equal(found.error_bound[i], alone.error_bound[0])
    with pytest.raises(OperatorError, match="2 physics for 3 images"):
        reconstruct(TotalVariation(), torch.rand(3, 1, 16, 16), several)
    levels = [Denoising(GaussianNoise(s)) for s in (0.05, 0.15)]
    many = TotalVariation(noise_nodes=2)
    expected = [reconstruct(many, CLEAN[i : i + 1], own).x for i, own in enumerate(levels)]
    assert torch.equal(reconstruct(many, CLEAN, levels).x, torch.cat(expected))


def test_a_mask_may_be_boolean():
    mask = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.4
    found, expected = (
        reconstruct(TotalVariation(), CLEAN * mask, Inpainting((1, 16, 16), mask=m), ridge=0.1)
        for m in (mask, mask.float())
    )
    assert torch.equal(found.x, expected.x) and bool(found.converged.all())


def test_a_physics_without_an_adjoint_is_certified_where_the_shape_of_images_is_told():
    summed = LinearPhysics(A=lambda x: x[:, :, :8] + x[:, :, 8:])
    y = summed.A(CLEAN)
    with pytest.raises(OperatorError, match=r"If it has no adjoint, say image_shape = \(C, H, W\)"):
        reconstruct(TotalVariation(), y, summed, ridge=0.1)
    with pytest.warns(UserWarning, match="has no adjoint"):
        found = reconstruct(TotalVariation(), y, summed, ridge=0.1, image_shape=(1, 16, 16))
    assert bool(found.converged.all())


def test_stacked_physics_are_one_operator():
    """Denoising twice is denoising of the mean, with twice the weight."""
    stack = deepinv.physics.stack(Denoising(GaussianNoise(0.1)), Denoising(GaussianNoise(0.1)))
    a, b = CLEAN, CLEAN.flip(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reconstruct(TotalVariation(weight=0.02), deepinv.utils.TensorList([a, b]), stack, accuracy=1e-3)
    expected = reconstruct(TotalVariation(weight=0.01), (a + b) / 2, Denoising(), accuracy=1e-4)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.x, expected.x, atol=1.1e-3, rtol=0)
    known = Problem(stack, clean=CLEAN, measurements=deepinv.utils.TensorList([a, b])).sample(0)
    assert torch.equal(known.y, torch.cat([a.flatten(1), b.flatten(1)], 1))
    step = next(fit(TotalVariation(), Problem(stack, clean=CLEAN), Isgd(batch_size=2), steps=1))
    assert bool(step.certified.all())
    sharpened = Pansharpen((3, 16, 16), factor=4)
    y = sharpened.A(torch.rand(1, 3, 16, 16))
    assert bool(reconstruct(TotalVariation(3), y, sharpened, ridge=0.1).converged.all())
    stack[1].noise_model.update_parameters(sigma=0.2)
    with pytest.raises(OperatorError, match="2 noise levels"):
        Problem(stack, clean=CLEAN)


def test_what_is_no_linear_physics_is_called_that():
    for wrong, message in ((Physics(A=lambda x: x**2), "not a linear"), (Denoising, "is a class"), (None, "not a")):
        with pytest.raises(OperatorError, match=message):
            reconstruct(TotalVariation(), CLEAN, wrong)
    with pytest.raises(OperatorError, match="1 of the 512 measurements are NaN or infinite"):
        reconstruct(TotalVariation(), torch.where(torch.arange(512).view(CLEAN.shape) > 0, CLEAN, torch.nan), NOISY)


# Regularizers and methods


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(load("tv-denoise-grey-25"), "give its .regularizer"), (TotalVariation, "is a class"), (3, "no Regularizer")],
)
def test_what_is_no_regularizer_is_called_that(wrong, message, tmp_path):
    for use in (
        lambda: reconstruct(wrong, CLEAN, Denoising()),
        lambda: next(fit(wrong, problem(), Isgd(), steps=1)),
        lambda: hypergradient(wrong, problem()),
        lambda: save(wrong, tmp_path / "model.safetensors"),
    ):
        with pytest.raises(RegularizerError, match=message):
            use()


def test_a_class_that_forgot_its_base_is_told():
    class Forgetful(Quadratic):
        def __init__(self):
            self.weight = 1.0

    with pytest.raises(RegularizerError, match=r"must call super\(\).__init__\(\) first"):
        reconstruct(Forgetful(), CLEAN, Denoising())


def test_a_curvature_is_two_numbers():
    class One(Quadratic):
        def curvature(self):
            return 40.0

    with pytest.raises(RegularizerError, match=r"two numbers \(rho, L\), not 40.0"):
        reconstruct(One(), CLEAN, Denoising())


@pytest.mark.parametrize("kind", [TotalVariation, FieldOfExperts, InputConvexNetwork])
@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"smoothing": 0.0}, {"weight": float("nan")}])
def test_weights_and_smoothings_are_positive(kind, wrong):
    with pytest.raises(RegularizerError, match=f"{next(iter(wrong))} = .* must be above 0"):
        kind(**wrong)


def test_what_is_frozen_stays_and_the_rest_learns():
    r = FieldOfExperts(filters=4, filter_size=3)
    r.raw_filters.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in r.named_parameters()}
    held = hypergradient(r, problem(), accuracy=1e-3).gradient
    free = hypergradient(r.requires_grad_(), problem(), accuracy=1e-3).gradient
    assert not held[0].any() and free[0].any()
    torch.testing.assert_close(held[1:], free[1:])
    r.raw_filters.requires_grad_(False)
    list(fit(r, problem(), Isgd(batch_size=2), steps=3))
    moved = {name: not torch.equal(p, before[name]) for name, p in r.named_parameters()}
    assert moved == {"raw_filters": False, "log_weights": True, "raw_smoothings": True}
    for nothing in (r.requires_grad_(False), Quadratic()):
        with pytest.raises(ProblemError, match="nothing to learn"):
            next(fit(nothing, problem(), Isgd(), steps=1))


@pytest.mark.parametrize("wrong", [Isgd, "isgd"])
def test_a_method_is_an_object(wrong):
    with pytest.raises(ProblemError, match="give an object"):
        next(fit(TotalVariation(), problem(), wrong, steps=1))
    with pytest.raises(ProblemError, match="batch_size must be at least 1"):
        next(fit(TotalVariation(), problem(), Isgd(batch_size=0), steps=1))


def test_a_loss_may_be_named():
    assert type(problem(loss="huber").sample(0).loss).__name__ == "HuberLoss"
    with pytest.raises(ProblemError, match="loss = 'hubr' must be one of squared, huber, charbonnier"):
        problem(loss="hubr")


# Precision


def test_a_hypergradient_leaves_the_regularizer_as_it_is():
    r = TotalVariation().double()
    assert all(g.dtype == torch.float32 for g in hypergradient(r, problem()).gradient)
    assert all(p.dtype == torch.float64 for p in r.parameters())


def test_a_hypergradient_of_zero_is_told():
    with pytest.warns(UserWarning, match="a hypergradient is zero"):
        hypergradient(TotalVariation(), problem(), accuracy=1e3)
    with pytest.raises(OperatorError, match=r"accuracy = 0\.0 must be above 0"):
        hypergradient(TotalVariation(), problem(), accuracy=0.0)


def test_autocast_changes_nothing():
    r = FieldOfExperts(filters=4, filter_size=3)
    expected, z = reconstruct(r, CLEAN, NOISY), hypergradient(r, problem())
    with torch.autocast("cpu"):
        assert torch.equal(reconstruct(r, CLEAN, NOISY).x, expected.x)
        torch.testing.assert_close(hypergradient(r, problem()).gradient, z.gradient, atol=0, rtol=0)
        step = next(fit(r, problem(), Isgd(batch_size=2), steps=1))
    assert bool(step.certified.all())


def test_what_was_learned_in_float64_is_loaded_in_float64(tmp_path):
    made = FieldOfExperts(filters=4, filter_size=3).double()
    save(made, tmp_path / "model.safetensors")
    for kwargs in ({}, {"regularizer": FieldOfExperts(filters=4, filter_size=3)}):
        found = load(tmp_path / "model.safetensors", **kwargs).regularizer.state_dict()
        torch.testing.assert_close(found, made.state_dict(), atol=0, rtol=0)


def test_who_asks_for_a_gradient_of_a_reconstruction_is_told():
    with pytest.warns(UserWarning, match="a reconstruction carries none"):
        reconstruct(TotalVariation(), CLEAN.clone().requires_grad_(), Denoising())


@pytest.mark.parametrize("shape", [(1, 1, 9), (3, 9, 1), (1, 1, 1)])
def test_images_of_one_row_have_regions(shape):
    (region,) = most_different(torch.rand(shape), [], 4)
    assert region.size == 1 and region.of(torch.rand(shape)).shape[1:] == (1, 1)
