"""Borders of blurred images: circular, unknown, mirrored."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from deepinv.physics import Blur
from skimage.data import camera

from app import assemble
from app.cli import main
from app.evaluation.simulation import simulation
from app.lower.energy import Energy
from app.lower.lbfgs import solve
from app.models.build import build_model
from app.problem.borders import with_border
from app.problem.losses import LOSSES
from app.problem.problem import Problem
from app.problem.quality import psnr
from app.problem.tasks import deblurring, deblurring_by_any, super_resolution
from app.settings.options import Config
from app.settings.toml import override
from datasets.blur_kernels import antialias_kernel, gaussian_kernel
from datasets.encode import encode_image
from datasets.images import read_image
from regularizers import FieldOfExperts
from tests.problems import dense

CPU, DOUBLE = torch.device("cpu"), torch.float64
KERNEL = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
KERNEL /= KERNEL.sum()
EVEN = torch.tensor([[0.1, 0.3], [0.0, 0.6]], dtype=DOUBLE)


def blurs(border, kernel, shape):
    circular = deblurring(kernel, CPU, DOUBLE)
    return with_border(border, circular, (kernel.shape[0], kernel.shape[1]), CPU)(torch.Size(shape), (0,))


def enlarges(border, factor, shape):
    kernel = antialias_kernel(factor, 0.3)
    circular = super_resolution(factor, kernel, CPU, DOUBLE)
    return with_border(border, circular, (kernel.shape[0], kernel.shape[1]), CPU)(torch.Size(shape), (0,))


OPERATORS = {
    "valid": lambda: blurs("valid", KERNEL, (1, 6, 8)),
    "reflect": lambda: blurs("reflect", KERNEL, (1, 6, 8)),
    "even valid": lambda: blurs("valid", EVEN, (1, 6, 5)),
    "even reflect": lambda: blurs("reflect", EVEN, (1, 6, 5)),
    "valid superres": lambda: enlarges("valid", 2, (1, 12, 10)),
    "reflect superres": lambda: enlarges("reflect", 3, (1, 9, 12)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adjoint_is_the_transpose_and_the_norm_a_bound(name):
    operator = OPERATORS[name]()
    shape = tuple(operator.image_shape)
    with torch.random.fork_rng():
        matrix = dense(lambda v: torch.cat([operator.forward(e[None]).flatten(1) for e in v]), shape)
    y = operator.forward(torch.rand(1, *shape, dtype=DOUBLE))
    torch.testing.assert_close(operator.adjoint(y).flatten(), matrix.T @ y.flatten())
    largest = float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    assert largest <= operator.norm_squared <= 4.01 * largest
    assert operator.lambda_min == 0 and operator.norm_proven


@pytest.mark.parametrize("border", ["valid", "reflect"])
def test_it_is_the_blur_that_deepinv_calls_so(border):
    x = torch.rand(2, 1, 9, 8, dtype=DOUBLE)
    theirs = Blur(filter=KERNEL[None, None], padding=border)
    torch.testing.assert_close(blurs(border, KERNEL, (1, 9, 8)).forward(x), theirs.A(x))


@pytest.mark.parametrize("kernel", [KERNEL, EVEN])
def test_a_valid_measurement_looks_at_no_pixel_across_the_border(kernel):
    (h, w), x = kernel.shape, torch.rand(1, 1, 9, 8, dtype=DOUBLE)
    expected = F.conv2d(x, kernel.flip(0, 1)[None, None])
    torch.testing.assert_close(blurs("valid", kernel, (1, 9, 8)).forward(x), expected)
    operators = with_border("valid", deblurring(kernel, CPU, DOUBLE), (h, w), CPU)
    assert operators.image_shape(torch.Size((1, *expected.shape[2:]))) == (1, 9, 8)
    assert operators.seen_in(x).shape == expected.shape


def test_each_image_of_a_batch_keeps_its_own_kernel():
    kernels = torch.stack([KERNEL, KERNEL.flip(0)])
    for border in ("valid", "reflect"):
        batch = with_border(border, deblurring_by_any(kernels, int, CPU, DOUBLE), (3, 5), CPU)(
            torch.Size((1, 8, 8)), (0, 1)
        )
        x = torch.rand(2, 1, 8, 8, dtype=DOUBLE)
        second = batch.take(torch.tensor([1]))
        torch.testing.assert_close(second.forward(x[1:]), blurs(border, kernels[1], (1, 8, 8)).forward(x[1:]))
        torch.testing.assert_close(second.normal(x[1:]), batch.normal(x)[1:])


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_looks_only_at_what_was_seen(name):
    clean = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    operators = with_border("valid", deblurring(KERNEL, CPU, DOUBLE), (3, 5), CPU)
    loss = Problem(operators, clean=clean, noise_level=0.0, loss=LOSSES[name], dtype=DOUBLE).sample(0).loss
    x = torch.rand_like(clean)
    gradient = loss.gradient(x)
    assert bool((operators.seen_in(gradient) != 0).all())
    assert int((gradient != 0).sum()) == operators.seen_in(gradient).numel()
    v = torch.rand_like(x)
    difference = (loss.value(x + 1e-6 * v) - loss.value(x - 1e-6 * v)) / 2e-6
    torch.testing.assert_close(difference, (gradient * v).sum((1, 2, 3)), rtol=1e-6, atol=1e-8)


def test_a_photograph_that_a_camera_blurred_is_sharper_up_to_its_border():
    """The kernel does not wrap round: the circular model is worse than the measurement, the unknown border is not."""
    kernel = gaussian_kernel(9, 1.5)
    whole = torch.from_numpy(camera()[100:172, 150:222] / 255.0)[None, None]
    y = F.conv2d(whole, kernel[None, None])
    clean, measured = whole[..., 4:-4, 4:-4], float(psnr(y, whole[..., 4:-4, 4:-4]))
    regularizer = FieldOfExperts(channels=1, filters=8, filter_size=3, weight=1e-4, smoothing=1e-3).double()
    found = {}
    for border in ("circular", "valid"):
        operators = with_border(border, deblurring(kernel, CPU, DOUBLE), (9, 9), CPU)
        operator = operators(operators.image_shape(y.shape[1:]), (0,))
        energy = Energy(operator, regularizer.frozen(), y, 1e-3)
        solution = solve(energy, energy.start, 0.1)
        assert bool(solution.converged)
        found[border] = float(psnr(operators.seen_in(solution.x), clean))
    assert found["circular"] < measured < found["valid"] - 2


def test_evaluation_measures_what_is_seen_and_training_learns_from_it(tmp_path):
    config = override(
        dataclasses.replace(Config()),
        ["problem.task=deblur", "problem.border=valid", "problem.ridge=1e-3", "regularizer.potential=charbonnier",
         "regularizer.filters=4", "regularizer.filter_size=3"],
    )  # fmt: skip
    simulated = simulation(config, build_model(config), tmp_path)
    clean = torch.rand(1, 1, 32, 32)
    y = simulated.measure(clean, (0,))
    assert y.shape == (1, 1, 24, 24)
    assert simulated(y, (0,)).x.shape == clean.shape
    torch.testing.assert_close(simulated.seen_in(simulated.as_image(y, (0,))), y)
    assert assemble.operators(config, tmp_path).seen_in(clean).shape == y.shape


def test_reconstruct_does_not_let_a_measured_image_wrap_round(tmp_path, capsys):
    """The shipped model, from the command line: the result has the size of the photograph, and is sharper."""
    whole = torch.from_numpy(camera()[100:208, 150:258] / 255.0)
    y = F.conv2d(whole[None, None], gaussian_kernel(9, 1.5)[None, None])[0].float()
    (tmp_path / "y.png").write_bytes(encode_image(y, ".png", 8))
    for border in ("valid", "circular"):
        extra = ["--set", f"problem.border={border}"] if border == "circular" else []
        out = tmp_path / border
        assert (
            main(["reconstruct", "foe-deblur-grey-gaussian", str(tmp_path / "y.png"), "--out", str(out), *extra]) == 0
        )
    x, circular = (read_image(tmp_path / border / "y.png", False) for border in ("valid", "circular"))
    clean = whole[None, 4:-4, 4:-4].float()
    before, after, wrapped = (float(psnr(a[None], clean[None])) for a in (y, x, circular))
    assert wrapped < before < after - 2
