"""The kernel on the simplex joins theta: derivatives against autograd and central differences, training, and files."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from app import assemble
from app.cli import main
from app.evaluation.simulation import simulation
from app.lower import lbfgs
from app.lower.energy import Energy
from app.models.build import PREFIX, build_model
from app.models.files import load_model, save_model
from app.problem.blur_kernel import BlurKernel, SemiBlind, kernel_error
from app.problem.convolution import convolution, misfit_by_kernel, mixed_by_kernel
from app.problem.losses import SquaredError
from app.problem.tasks import deblurring
from app.settings.options import Config, ConfigError
from app.settings.toml import parse
from app.upper.bound import error_bound
from app.upper.hypergradient import Hypergradient, hypergradient
from datasets.blur_kernels import KernelError, gaussian_kernel
from regularizers import Regularizer, TotalVariation
from tests.problems import dense, regularizer_named

CPU = torch.device("cpu")
RIDGE = 0.9


def uneven(size: int = 3) -> BlurKernel:
    """A learned kernel without symmetries, which would hide wrong signs."""
    kernel = BlurKernel(size, 0.8)
    with torch.no_grad():
        kernel.logits += torch.randn(size, size, generator=torch.Generator().manual_seed(2), dtype=kernel.logits.dtype)
    return kernel


def by_shifts(kernel: Tensor, x: Tensor) -> Tensor:
    """k * x, one shifted image per entry."""
    h, w = kernel.shape
    places = [(i, j) for i in range(h) for j in range(w)]
    return sum((kernel[i, j] * x.roll((i - h // 2, j - w // 2), (2, 3)) for i, j in places), torch.zeros_like(x))


def problem(channels: int) -> tuple[Tensor, Tensor]:
    """y, clean."""
    generator = torch.Generator().manual_seed(5)
    clean = torch.randn(2, channels, 8, 8, generator=generator)
    y = by_shifts(gaussian_kernel(3, 1.2).to(clean), clean) + 0.3 * torch.randn(clean.shape, generator=generator)
    return y, clean


def run(r: Regularizer, kernel: BlurKernel, y: Tensor, clean: Tensor, accuracy: float = 1e-11) -> Hypergradient:
    energy = Energy(kernel.operator((8, 8)), r.frozen(), y, RIDGE)
    learned = SemiBlind(r, kernel, y)
    return hypergradient(learned, energy, SquaredError(clean), lbfgs.solve, energy.backprojection, accuracy=accuracy)


@pytest.mark.parametrize("grid", [(9, 10), (8, 7), (5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_frozen_kernel_is_the_blur_that_deepinv_knows(grid, dtype):
    kernel = uneven(5).to(dtype)
    ours, theirs = kernel.operator(grid), deblurring(kernel().detach().double(), CPU, dtype)(torch.Size((3, *grid)), ())
    x = torch.randn(2, 3, *grid, dtype=dtype)
    torch.testing.assert_close(ours.forward(x), theirs.forward(x))
    torch.testing.assert_close(ours.adjoint(x), theirs.adjoint(x))
    torch.testing.assert_close(ours.normal(x), theirs.normal(x))
    torch.testing.assert_close(ours.normal_model[0], theirs.normal_model[0], check_dtype=False)
    bounds = (ours.norm_squared, ours.lambda_min, ours.diagonal)
    assert bounds == pytest.approx((theirs.norm_squared, theirs.lambda_min, theirs.diagonal), rel=1e-5)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("size", [(2, 3), (4, 5), (8, 7)])
def test_the_convolution_is_a_sum_of_shifts_with_its_exact_spectrum(size):
    """Kernels of every parity, up to the size of the image."""
    kernel = torch.rand(*size)
    a = convolution(kernel, (8, 7))
    x, y = torch.randn(2, 2, 3, 8, 7)
    torch.testing.assert_close(a.forward(x), by_shifts(kernel, x))
    torch.testing.assert_close((a.forward(x) * y).sum(), (x * a.adjoint(y)).sum())
    torch.testing.assert_close(a.normal(x), a.adjoint(a.forward(x)))
    matrix = dense(lambda v: torch.cat([a.normal(e[None]) for e in v]), (1, 8, 7))
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert (a.lambda_min, a.norm_squared) == pytest.approx((float(eigenvalues[0]), float(eigenvalues[-1])))
    torch.testing.assert_close(matrix.diagonal(), torch.full((56,), a.diagonal))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("size", [(3, 3), (2, 5), (8, 7)])
def test_derivatives_by_the_kernel_are_those_of_autograd(size):
    kernel = torch.rand(*size, requires_grad=True)
    x, y, q = torch.randn(3, 2, 3, 8, 7)
    point = x.clone().requires_grad_()
    misfit = 0.5 * (by_shifts(kernel, point) - y).square().sum()
    (by_kernel,) = torch.autograd.grad(misfit, kernel, create_graph=True)
    (gradient,) = torch.autograd.grad(misfit, point, create_graph=True)
    (mixed,) = torch.autograd.grad((gradient * q).sum(), kernel)
    a = convolution(kernel, (8, 7))
    torch.testing.assert_close(misfit_by_kernel(a, x, y, size), by_kernel.detach())
    torch.testing.assert_close(mixed_by_kernel(a, x, y, q, size), mixed)


@pytest.mark.usefixtures("double")
def test_the_derivative_at_fixed_x_by_the_logits_is_that_of_autograd():
    kernel, (y, x) = uneven(), problem(3)
    misfit = 0.5 * (by_shifts(kernel(), x) - y).square().sum()
    torch.testing.assert_close(kernel.misfit_gradient(x, y), torch.autograd.grad(misfit, kernel.logits)[0])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["tv isotropic", "foe charbonnier circular", "foe mcp valid"])
@pytest.mark.parametrize("channels", [1, 3])
def test_dense_linear_algebra(name, channels):
    """-J^T H^-1 (x - clean) of regularizer and kernel, with H and J assembled from autograd and sums of shifts."""
    r, kernel, (y, clean) = regularizer_named(name, channels), uneven(), problem(channels)
    z = run(r, kernel, y, clean)
    parameters = (*r.parameters(), *kernel.parameters())
    expected = [torch.zeros_like(p) for p in parameters]
    for b in range(len(y)):
        point = z.lower.x[b : b + 1].clone().requires_grad_()
        misfit = by_shifts(kernel(), point) - y[b : b + 1]
        h = 0.5 * misfit.square().sum() + r.fn(point).sum() + 0.5 * RIDGE * point.square().sum()
        (g,) = torch.autograd.grad(h, point, create_graph=True)
        assert g.norm() < 1e-9
        hessian = torch.stack([torch.autograd.grad(e, point, retain_graph=True)[0].flatten() for e in g.flatten()])
        q = torch.linalg.solve(hessian, (point.detach() - clean[b]).flatten())
        for e, j in zip(expected, torch.autograd.grad((g.flatten() * q).sum(), parameters), strict=True):
            e -= j / len(y)
    for a, e in zip(z.gradient, expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-8, rtol=1e-6)


@pytest.mark.usefixtures("double")
def test_central_differences_through_the_whole_solve():
    r, kernel, (y, clean) = regularizer_named("tv isotropic"), uneven(), problem(1)
    z = run(r, kernel, y, clean)
    generator, step = torch.Generator().manual_seed(3), 1e-5
    for p, gradient in zip(SemiBlind(r, kernel, y).parameters(), z.gradient, strict=True):
        direction, values = torch.randn(p.shape, generator=generator), []
        for move in (step, -2 * step):
            with torch.no_grad():
                p += move * direction
            values.append(run(r, kernel, y, clean).loss.mean())
        with torch.no_grad():
            p += step * direction
        slope = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-5, atol=1e-8)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("channels", [1, 3])
def test_omega_is_above_the_error(channels):
    r, kernel, (y, clean) = regularizer_named("foe charbonnier circular", channels), uneven(), problem(channels)
    for b in range(len(y)):
        one, target = y[b : b + 1], clean[b : b + 1]
        exact = torch.cat([g.flatten() for g in run(r, kernel, one, target).gradient])
        for accuracy in (1.0, 1e-1, 1e-2, 1e-4, 1e-6):
            z = run(r, kernel, one, target, accuracy)
            energy = Energy(kernel.operator((8, 8)), r.frozen(), one, RIDGE)
            omega = error_bound(SemiBlind(r, kernel, one), energy, 1.0, z.lower, z.linear)
            assert (torch.cat([g.flatten() for g in z.gradient]) - exact).norm() <= omega
        assert omega < 1e-2 * exact.norm(), "the bound does not go to zero with the accuracy"


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("radius", [1e-3, 1.0])
def test_the_changes_by_the_kernel_are_bounded_for_many_displacements(radius):
    """With a weight of nearly 0, the regularizer's bounds add nothing."""
    kernel, (y, x) = uneven(), problem(1)
    learned, y, x = SemiBlind(TotalVariation(1, weight=1e-12, smoothing=1.0), kernel, y[:1]), y[:1], x[:1]
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(x.shape, generator=generator)
    s = learned.sensitivity(x, q, torch.tensor([radius]))
    largest, farthest = 0.0, 0.0
    for _ in range(6):
        d = torch.randn(x.shape, generator=generator)
        moved = x + radius * d / d.norm()
        change = learned.mixed(moved, q)[-1] - learned.mixed(x, q)[-1]
        # J^T as a matrix, one column per pixel
        columns = dense(lambda v, p=moved: torch.stack([learned.mixed(p, e[None])[-1] for e in v]), (1, 8, 8))
        largest = max(largest, float(torch.linalg.matrix_norm(columns, 2)))
        farthest = max(farthest, float(change.norm()))
    assert farthest <= s.jacobian_product[0] < 20 * farthest
    assert largest <= s.jacobian[0] < 20 * largest


def test_the_kernel_is_on_the_simplex_for_all_logits():
    for scale in (0.0, 1.0, 30.0, 1e4):
        kernel = BlurKernel(5, 1.0)
        with torch.no_grad():
            kernel.logits += scale * torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
        k = kernel()
        assert k.min() >= 0
        torch.testing.assert_close(k.sum(), torch.tensor(1.0))
        assert kernel.operator((8, 8)).norm_squared == pytest.approx(1.0, rel=1e-5), "a mean is kept, others shrink"


@pytest.mark.parametrize(("size", "width"), [(3, 0.5), (9, 2.5), (9, 0.1)])
def test_the_learned_kernel_starts_as_a_gaussian(size, width):
    torch.testing.assert_close(BlurKernel(size, width)().detach().double(), gaussian_kernel(size, width))


def test_the_kernel_error_aligns_centres_and_knows_no_scale():
    a = gaussian_kernel(9, 1.5)
    assert kernel_error(a, a) == 0
    assert kernel_error(torch.nn.functional.pad(a, (2, 2, 1, 1)), a) == 0
    assert kernel_error(torch.zeros(3, 3), a) == 1
    one, far = torch.zeros(3, 3), torch.zeros(4, 6)
    one[1, 1], far[2, 3] = 1, 1
    assert kernel_error(one, far) == 0
    assert kernel_error(one.roll(1, 0), far) == pytest.approx(2**0.5)


def test_an_image_smaller_than_the_support_is_refused():
    with pytest.raises(KernelError, match="larger than the image"):
        BlurKernel(9, 1.0).operator((8, 12))


DEBLUR = {"task": "deblur", "learn_kernel": True, "ridge": 1e-3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": {**DEBLUR, "task": "denoise"}}, "learn_kernel = True is not read by denoise: it is for deblur"),
        ({"problem": {**DEBLUR, "ridge": 0}}, "needs a ridge above 0"),
        ({"problem": {**DEBLUR, "learned_kernel_size": 33}, "data": {"patch_size": 32}}, "at most data.patch_size"),
        ({"problem": {**DEBLUR, "learned_kernel_size": 4}}, "must be odd"),
        ({"problem": {**DEBLUR, "initial_kernel_width": 0}}, "must be at least 0.01"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse(changes)


def config(**changes) -> Config:
    return parse({"problem": DEBLUR | changes, "regularizer": {"name": "tv"}})


def test_a_model_file_holds_the_kernel_beside_the_regularizer(tmp_path):
    model = build_model(config())
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    save_model(tmp_path / "a.safetensors", model, config(), {})
    loaded, _ = load_model(str(tmp_path / "a.safetensors"))
    assert loaded.kernel is not None
    assert list(load_file(tmp_path / "a.safetensors")) == sorted(["log_weights", "log_smoothings", PREFIX + "logits"])
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    without = build_model(config(learn_kernel=False))
    save_model(tmp_path / "b.safetensors", without, config(learn_kernel=False), {})
    assert load_model(str(tmp_path / "b.safetensors"))[0].kernel is None


SMALL = [
    "--set", "data.images=builtin:train", "--set", "data.patch_size=32", "--set", "data.validation_crop=16",
    "--set", "problem.learned_kernel_size=5", "--set", "problem.kernel=gaussian:5:1",
    "--set", "problem.initial_kernel_width=2.5", "--set", "run.validate_every=0", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> str:
    """A small held-out image: what runs end with takes as long as it is large."""
    folder = tmp_path_factory.mktemp("images")
    values = np.random.default_rng(0).integers(0, 256, (5, 6), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    Image.fromarray(values).save(folder / "blocks.png")
    return str(folder)


def train(folder: Path, photographs: str, steps: int, *more: str) -> int:
    settings = [*SMALL, "--set", f"data.validation={photographs}", "--set", f"run.steps={steps}", *more]
    return main(["train", "tv-semi-blind", "--out", str(folder), *settings])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, photographs) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "blind"
    assert train(folder, photographs, 25, "--set", "upper.step_size=0.1") == 0
    return folder


def test_training_finds_the_kernel(run_folder):
    model, trained = load_model(str(run_folder))
    assert model.kernel is not None
    true = gaussian_kernel(5, 1.0)
    start = kernel_error(BlurKernel(5, trained.problem.initial_kernel_width)(), true)
    assert kernel_error(model.kernel(), true) < 0.5 * start
    torch.testing.assert_close(model.kernel().sum(), torch.tensor(1.0))
    rows = list(csv.DictReader((run_folder / "metrics.csv").open()))
    assert all(float(row["certified"]) == 1 for row in rows)


def test_resume_is_bit_exact(tmp_path, photographs):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    steady = ("--set", "upper.schedule=constant")
    assert train(cut, photographs, 2, *steady) == 0
    assert main(["resume", str(cut), "--quiet", "--set", "run.steps=4"]) == 0
    assert train(whole, photographs, 4, *steady) == 0
    a, b = (load_file(f / "checkpoint" / "state.safetensors") for f in (cut, whole))
    assert a.keys() == b.keys()
    assert f"parameter.{PREFIX}logits" in a
    assert all(torch.equal(a[name], b[name]) for name in a if name != "books.rows")  # which hold seconds


def test_measuring_uses_the_true_kernel_and_reconstructing_the_learned_one(run_folder, tmp_path):
    model, trained = assemble.load(str(run_folder), [])
    reconstruct = simulation(trained, model, tmp_path)
    x = torch.rand(1, 1, 16, 16)
    assert model.kernel is not None
    torch.testing.assert_close(
        reconstruct.measuring(x.shape[1:], (0,)).forward(x), by_shifts(gaussian_kernel(5, 1.0).float(), x)
    )
    torch.testing.assert_close(reconstruct.problem(x, (0,)).operator.forward(x), by_shifts(model.kernel().detach(), x))
    model, known = assemble.load(str(run_folder), ["problem.learn_kernel=false"])
    energy = simulation(known, model, tmp_path).problem(x, (0,))
    torch.testing.assert_close(energy.operator.forward(x), by_shifts(gaussian_kernel(5, 1.0).float(), x))


def test_evaluate_says_how_far_the_kernel_is_off(run_folder, photographs, capsys):
    model, _ = load_model(str(run_folder))
    assert model.kernel is not None
    error = kernel_error(model.kernel(), gaussian_kernel(5, 1.0))
    evaluate = ["evaluate", str(run_folder), "--images", photographs, "--quiet"]
    assert main(evaluate) == 0
    assert f"||k_true|| = {error:.3f}" in capsys.readouterr().out
    assert main([*evaluate, "--set", "problem.learn_kernel=false"]) == 0
    assert "kernel error" not in capsys.readouterr().out


def test_a_kernel_can_only_be_asked_of_models_that_hold_one(tmp_path, photographs, capsys):
    plain = config(learn_kernel=False)
    save_model(tmp_path / "a.safetensors", build_model(plain), plain, {})
    file = str(tmp_path / "a.safetensors")
    assert main(["evaluate", file, "--images", photographs, "--set", "problem.learn_kernel=true"]) == 2
    assert "holds no learned kernel" in capsys.readouterr().err


def test_a_potential_that_leans_on_the_present_kernel_is_refused(tmp_path, photographs, capsys):
    """lambda_min of a kernel that is learned may fall to 0, so the ridge alone must exceed rho."""
    mcp = ["--set", "regularizer.name=foe", "--set", "regularizer.potential=mcp", "--set", "regularizer.weight=0.01"]
    small = ["--set", "problem.initial_kernel_width=0.1", "--set", "regularizer.weak_convexity=0.5"]
    assert train(tmp_path / "run", photographs, 1, *mcp, *small) == 2
    assert "not provably strongly convex" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
