"""What is stated of a reconstruction: the exact bound is never above it, nor above what is written of it."""

import math
from copy import deepcopy

import pytest
import torch
from deepinv.physics import Blur, BlurFFT, Denoising, Inpainting, LinearPhysics
from torch import Tensor

from app.evaluation.reconstructor import reconstruct
from app.evaluation.simulation import Simulation
from app.lower.certificate import proven_bound
from app.lower.energy import Energy
from app.lower.solution import LowerSolution, rounded_up
from regularizers import FieldOfExperts, Regularizer, TotalVariation
from tests.problems import NAMES, Identity, perturbed, regularizer_named
from tests.test_simulation import simulated


def by_autograd(r: Regularizer, forward, y: Tensor, ridge: float, x: Tensor) -> float:
    """||grad h(x)|| in float64, by torch.autograd of the value."""
    x, r = x.double().requires_grad_(), deepcopy(r).double()
    h = (forward(x) - y.double()).square().sum() / 2 + r.value(x).sum() + ridge / 2 * x.square().sum()
    return float(torch.autograd.grad(h, x)[0].norm())


def bright(side: int) -> Tensor:
    return 1 - 0.1 * torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))


def blurred(side: int = 64, accuracy: float = 0.01) -> tuple[Simulation, Tensor, LowerSolution, float]:
    """A bright image, mu = 1e-3: the simulation, y, what is stated, and the exact bound."""
    s = simulated("tv-deblur-grey-gaussian", "problem.ridge=0.001", f"lower.final_accuracy={accuracy}")
    y = s.measure(bright(side), (0,))
    found = s(y, (0,))
    physics = s.operators(torch.Size((1, side, side)), (0,)).physics
    exact = BlurFFT((1, side, side), filter=physics.filter.double())
    return s, y, found, by_autograd(s.regularizer, exact.A, y, s.ridge, found.x) / 1e-3


def test_the_exact_bound_of_a_bright_deblurred_image_is_below_the_stated_one():
    """In float32 the gradient is wrong by about 1e-7 ||x||, which is divided by mu = 1e-3."""
    for side, accuracy in ((64, 0.01), (64, 0.004), (96, 0.01)):
        _, _, found, exact = blurred(side, accuracy)
        assert exact <= float(found.error_bound) <= 1.02 * exact


@pytest.mark.parametrize("task", ["deblur", "superres"])
@pytest.mark.parametrize("border", ["circular", "valid", "reflect"])
def test_an_operator_in_float64_is_that_of_the_float32_numbers_at_every_border(task, border):
    """What it computes of float32 images is what the same task does whose precision is float64."""
    settings = f"problem.task={task}", f"problem.border={border}"
    single, double = (
        simulated("tv-deblur-grey-gaussian", *settings, f"run.precision={p}").operators(torch.Size((1, 24, 20)), (0,))
        for p in ("float32", "float64")
    )
    x = torch.rand(1, 1, 24, 20).double()
    torch.testing.assert_close(single.promoted().forward(x), double.forward(x), rtol=0, atol=1e-13)


def test_what_float32_cannot_reach_is_reached_in_float64_and_handed_over_in_float32():
    s, y, found, exact = blurred(accuracy=1e-3)
    energy = s.problem(y, (0,)).energy()
    assert not bool(s.solver(energy, energy.start, s.accuracy).converged)
    assert found.x.dtype == found.error_bound.dtype == torch.float32
    assert bool(found.converged) and exact <= float(found.error_bound) <= s.accuracy


def test_an_accuracy_that_no_float32_array_has_is_not_said_to_be_reached():
    _, _, found, exact = blurred(accuracy=1e-6)
    assert not bool(found.converged)
    assert 1e-6 < exact <= float(found.error_bound)


def test_the_limit_of_iterations_ends_a_solve_for_good():
    s = simulated("tv-deblur-grey-gaussian", "lower.max_iterations=5", "lower.final_accuracy=0.01")
    found = s(s.measure(bright(32), (0,)), (0,))
    assert not bool(found.converged) and int(found.iterations) <= 7


PHYSICS: dict[str, tuple[object, float]] = {
    "denoise": (lambda k, mask: Denoising(), 1.0),
    "blur": (lambda k, mask: BlurFFT((1, 12, 10), filter=k), 0.0),
    "direct": (lambda k, mask: Blur(filter=k, padding="valid"), 0.0),
    "inpaint": (lambda k, mask: Inpainting((1, 12, 10), mask=mask), 0.0),
}


def drawn(task: str, dtype: torch.dtype) -> LinearPhysics:
    """A physics whose numbers are float32 ones, in this precision."""
    draw = torch.Generator().manual_seed(1)
    k, mask = torch.rand(1, 1, 3, 3, generator=draw), torch.rand(1, 12, 10, generator=draw).round()
    return PHYSICS[task][0](k.div(k.sum()).to(dtype), mask.to(dtype))  # type: ignore[operator]


def test_no_exact_bound_is_above_the_stated_one():
    """For every kind of regularizer, scale of the image, accuracy and type of number."""
    draw = torch.Generator().manual_seed(0)
    for n, name in enumerate(NAMES[::2]):
        r = regularizer_named(name)
        task, ridge, scale = (*PHYSICS,)[n % 4], (1.0, 1e-2, 10.0)[n % 3], (1.0, 255.0, 0.01)[n // 3 % 3]
        least, accuracy = PHYSICS[task][1], scale * 10.0 ** -(n % 3)
        dtype = (torch.float32, torch.float64, torch.float32, torch.bfloat16)[n % 4]
        clean = scale * torch.rand(1, 1, 12, 10, generator=draw)
        y, r = drawn(task, torch.float32).A(clean).to(dtype), r.to(dtype).at(0.1)
        mu = least + ridge - deepcopy(r).double().curvature()[0]
        if mu <= 0:
            continue
        found = reconstruct(r, y, drawn(task, torch.float32), ridge=ridge, accuracy=accuracy, noise_level=0.1,
                            image_shape=torch.Size((1, 12, 10)))  # fmt: skip
        exact = by_autograd(r, drawn(task, torch.float64).A, y, ridge, found.x) / mu
        assert found.x.dtype == dtype and exact <= float(found.error_bound), name
        assert bool(found.converged) == (float(found.error_bound) <= accuracy)


def test_the_strong_convexity_is_that_of_the_numbers_in_float64():
    """A bank that float32 has normalized may exceed its budget by some roundings, which mu = 1e-4 sees."""
    r = perturbed(FieldOfExperts(1, 12, 5, "mcp", weak_convexity=0.9999, weight=0.05, smoothing=0.02))
    y = bright(24) + 0.1 * torch.randn(1, 1, 24, 24)
    found = reconstruct(r, y, Denoising(), accuracy=0.5)
    exact = by_autograd(r, lambda x: x, y, 0.0, found.x) / (1 - deepcopy(r).double().curvature()[0])
    assert exact <= float(found.error_bound)


def test_what_an_image_is_told_does_not_depend_on_its_batch():
    r, y = TotalVariation(1, weight=0.01, smoothing=0.05), torch.cat([bright(32), 0.1 * bright(32), bright(32).flip(3)])
    physics = BlurFFT((1, 32, 32), filter=torch.ones(1, 1, 3, 3) / 9)
    settings = {"ridge": 1e-3, "accuracy": 2e-3}
    together = reconstruct(r, y, physics, **settings)
    alone = [reconstruct(r, y[i : i + 1], physics, **settings) for i in range(3)]
    torch.testing.assert_close(together.x, torch.cat([a.x for a in alone]), rtol=0, atol=1e-4)
    assert together.converged.tolist() == [bool(a.converged) for a in alone]


class Single(LinearPhysics):
    """A physics that computes in float32, whatever it is given."""

    def A(self, x, **kwargs):
        return (2 * x.float()).to(x.dtype)

    def A_adjoint(self, y, **kwargs):
        return (2 * y.float()).to(y.dtype)


def test_a_physics_that_does_not_compute_in_float64_certifies_nothing_and_says_so():
    with pytest.warns(UserWarning, match="nothing is certified"):
        found = reconstruct(TotalVariation(1), bright(16), Single(), ridge=0.1)
    assert not bool(found.converged) and math.isinf(float(found.error_bound))
    torch.testing.assert_close(2 * found.x, bright(16), atol=0.1, rtol=0)


def test_written_bounds_are_rounded_up():
    for value, digits, text in ((0.09991, 3, "0.1"), (0.099, 3, "0.099"), (0.0991, 2, "0.1"), (math.inf, 3, "inf"),
                                (1.00001e-7, 3, "1.01e-07"), (0.0, 3, "0"), (123456.0, 3, "1.24e+05")):  # fmt: skip
        assert rounded_up(value, digits) == text and float(text) >= value


def test_a_guided_model_says_what_its_bound_is_given(capsys, tmp_path, photograph):
    from app.cli import main

    name = "adaptive-foe-mcp-denoise-grey-25"
    assert main(["reconstruct", name, str(photograph), "--degrade", "--out", str(tmp_path)]) == 0
    assert "given the guide's result" in capsys.readouterr().out
    assert main(["evaluate", name, "tv-denoise-grey-25", "--images", str(photograph.parent), "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{name}: certified given the guide's result"


def test_a_copy_in_float64_has_the_numbers_of_the_original():
    for r in map(regularizer_named, NAMES):
        wide = r.promoted()
        for a, b in zip(r.state_dict().values(), wide.state_dict().values(), strict=True):
            assert b.dtype == torch.float64 and torch.equal(a.double(), b)
        assert next(r.parameters()).dtype == torch.float32


def test_the_rounding_of_a_large_field_has_a_bound_of_its_own():
    """128 filters of 15 x 15 take more operations than the usual allowance."""
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def delta(filters: int, size: int) -> float:
        regularizer = FieldOfExperts(1, filters, size, boundary="circular").double()
        h = Energy(Identity(), regularizer.frozen(), x)
        known = float(h.gradient(x).norm()) / h.bounds[0]
        return (float(proven_bound(h, x)) - known) / (h.bounds[1] * float(x.norm()) + float(x.norm()))

    assert delta(128, 15) > 2 * (1 + 128) * 15**3 * 2**-53 > 3 * delta(8, 3)
