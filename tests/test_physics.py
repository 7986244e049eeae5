"""Measurement operators: adjoint, bounds, float64."""

import pytest
import torch

from app.lower import lbfgs
from app.lower.energy import Energy
from app.problem.tasks import deblurring, deblurring_by_any, denoising, drawn, inpainting
from datasets.blur_kernels import gaussian_kernel
from regularizers import TotalVariation
from tests.problems import dense

CPU = torch.device("cpu")
SHAPE = torch.Size((1, 9, 10))


def operators(dtype):
    motion = torch.zeros(5, 3, dtype=torch.float64)
    motion[1, 0], motion[2, 1], motion[4, 2] = 0.5, 0.3, 0.2
    return {
        "denoise": denoising(CPU),
        "gaussian": deblurring(gaussian_kernel(5, 1.1), CPU, dtype),
        "motion": deblurring(motion, CPU, dtype),
        "inpaint": inpainting(0.5, 0, CPU, dtype),
        "many kernels": deblurring_by_any(several_kernels(), lambda i: i % 3, CPU, dtype),
    }


def several_kernels():
    kernels = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return kernels / kernels.sum((1, 2), keepdim=True)


@pytest.mark.parametrize("name", operators(torch.float64))
@pytest.mark.parametrize("shape", [SHAPE, torch.Size((3, 8, 8))])
def test_adjointness(name, shape):
    operator = operators(torch.float64)[name](shape, (0, 1))
    x, y = torch.randn(2, *shape, dtype=torch.float64), torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close((operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum())
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator.forward(x)))


@pytest.mark.parametrize("name", operators(torch.float64))
def test_bounds_are_the_extreme_eigenvalues(name):
    operator = operators(torch.float64)[name](SHAPE, (3,))
    matrix = dense(lambda v: torch.cat([operator.normal(e[None]) for e in v]), tuple(SHAPE))
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert operator.norm_squared == pytest.approx(float(eigenvalues[-1]), abs=1e-10)
    assert operator.lambda_min == pytest.approx(float(eigenvalues[0]), abs=1e-10)


def test_blur_is_the_circular_convolution_with_the_kernel_also_in_float64():
    kernel = torch.rand(3, 5, dtype=torch.float64)
    x = torch.randn(1, 1, 9, 10, dtype=torch.float64)
    operator = deblurring(kernel / kernel.sum(), CPU, torch.float64)(x.shape[1:], (0,))
    padded = torch.nn.functional.pad(x, (2, 2, 1, 1), mode="circular")
    expected = torch.nn.functional.conv2d(padded, (kernel / kernel.sum()).flip(0, 1)[None, None])
    torch.testing.assert_close(operator.forward(x), expected)


def test_masks_belong_to_the_image():
    make = inpainting(0.5, 7, CPU, torch.float32)
    together, alone = make(SHAPE, (4, 9)), make(SHAPE, (9,))
    x = torch.ones(1, *SHAPE)
    torch.testing.assert_close(together.forward(x.expand(2, -1, -1, -1))[1:], alone.forward(x))
    torch.testing.assert_close(together.take(torch.tensor([1])).forward(x), alone.forward(x))
    assert not torch.equal(make(SHAPE, (4,)).forward(x), alone.forward(x))


def test_noise_does_not_reach_pixels_that_are_not_measured():
    operator = inpainting(0.5, 0, CPU, torch.float32)(SHAPE, (0,))
    y = operator.measure(torch.zeros(1, *SHAPE), 1.0, [torch.Generator().manual_seed(0)])
    assert torch.equal(y != 0, operator.forward(torch.ones(1, *SHAPE)) != 0)


def test_a_kernel_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="larger than the image"):
        deblurring(gaussian_kernel(11, 1.0), CPU, torch.float32)(SHAPE, (0,))


def test_each_image_of_a_batch_has_its_own_kernel():
    kernels, x = several_kernels(), torch.randn(4, *SHAPE, dtype=torch.float64)
    images = (5, 0, 7, 4)
    together = deblurring_by_any(kernels, lambda i: i % 3, CPU, torch.float64)(SHAPE, images)
    alone = [deblurring(kernels[i % 3], CPU, torch.float64)(SHAPE, (i,)) for i in images]
    for product in ("forward", "adjoint", "normal"):
        expected = torch.cat([getattr(a, product)(x[b : b + 1]) for b, a in enumerate(alone)])
        torch.testing.assert_close(getattr(together, product)(x), expected)
    taken = together.take(torch.tensor([2, 1]))
    torch.testing.assert_close(taken.normal(x[[2, 1]]), together.normal(x)[[2, 1]])
    for b, a in enumerate(alone):
        part = together.take(torch.tensor([b]))
        symbol, diagonal = part.normal_model
        torch.testing.assert_close(symbol[0, 0, 0], a.symbol)
        assert float(diagonal) == pytest.approx(a.diagonal)
        assert part.norm_squared >= a.norm_squared
        assert part.lambda_min <= a.lambda_min
    assert together.norm_squared == max(a.norm_squared for a in alone)
    assert together.lambda_min == min(a.lambda_min for a in alone)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_reconstruction_does_not_depend_on_the_kernels_of_its_batch(channels, double):
    """Up to the certified accuracy, in which the bounds of the batch have a part."""
    make = deblurring_by_any(several_kernels(), drawn(3, 0), CPU, torch.float64)
    images, shape = tuple(range(6)), torch.Size((channels, 12, 10))
    operator, r = make(shape, images), TotalVariation(channels, weight=0.02, smoothing=0.05).frozen()
    y = operator.forward(torch.rand(6, *shape))
    together = lbfgs.solve(Energy(operator, r, y, 0.01), y, 1e-8)
    assert together.converged.all()
    for i in images:
        alone = lbfgs.solve(Energy(make(shape, (i,)), r, y[i : i + 1], 0.01), y[i : i + 1], 1e-8)
        assert (alone.x - together.x[i : i + 1]).norm() <= 2e-8


def test_the_kernel_drawn_for_an_image_belongs_to_it():
    choose = drawn(8, 3)
    chosen = [choose(i) for i in range(100)]
    assert chosen == [choose(i) for i in range(100)]
    assert set(chosen) == set(range(8))
    assert chosen != [drawn(8, 4)(i) for i in range(100)]
