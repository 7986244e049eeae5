"""Measurement operators: adjoint, bounds, float64."""

import pytest
import torch

from app.physics import deblurring, denoising, inpainting
from datasets.kernels import gaussian_kernel
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
    }


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
    y = operator.measure(torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE))
    torch.testing.assert_close(y, operator.forward(torch.ones(1, *SHAPE)))


def test_a_kernel_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="larger than the image"):
        deblurring(gaussian_kernel(11, 1.0), CPU, torch.float32)(SHAPE, (0,))
