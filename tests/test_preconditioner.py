"""The preconditioner: symmetric, positive definite, exact where the Hessian is what it models, and worth its cost."""

import pytest
import torch
from skimage.data import camera

from app.lower.energy import Energy
from app.lower.preconditioner import preconditioner
from app.lower.solution import norm
from app.problem.tasks import deblurring, denoising, inpainting
from app.upper.linear import conjugate_gradient
from datasets.blur_kernels import gaussian_kernel
from regularizers import CHARBONNIER, HUBER, FieldOfExperts
from tests.problems import NAMES, Identity, dense, regularizer_named

pytestmark = pytest.mark.usefixtures("double")
CPU = torch.device("cpu")
OPERATORS = {
    "denoise": lambda: denoising(CPU),
    "blur": lambda: deblurring(gaussian_kernel(3, 0.8), CPU, torch.float64),
    "inpaint": lambda: inpainting(0.6, 0, CPU, torch.float64),
}


def energy(name: str, task: str, channels: int, height: int = 8, width: int = 7) -> Energy:
    operator = OPERATORS[task]()(torch.Size((channels, height, width)), (0, 1))
    y = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    return Energy(operator, regularizer_named(name, channels).frozen(), y, 0.9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("task", OPERATORS)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_symmetric_and_positive_definite(name, task, channels):
    e = energy(name, task, channels)
    inverse = preconditioner(e, e.y)
    one = inverse.take(torch.tensor([1]))
    matrix = dense(lambda v: torch.cat([one(p[None]) for p in v]), tuple(e.y.shape[1:]))
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix)[0] > 0
    v = torch.randn_like(e.y)
    torch.testing.assert_close(inverse(v)[1:], one(v[1:]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("task", ["denoise", "blur"])
def test_it_is_the_inverse_of_a_circulant_hessian(task, channels):
    """The curvature of Huber's function is constant inside; with circular filters the Hessian is a circulant. Of colour
    images, each filter sees one of three orthogonal mixtures of the channels, which have different weights."""
    operator = OPERATORS[task]()(torch.Size((channels, 10, 9)), (0,))
    regularizer = FieldOfExperts(channels, 5, 3, HUBER, boundary="circular", weight=1.0, smoothing=100.0)
    with torch.no_grad():
        mixtures = torch.linalg.qr(torch.randn(channels, channels)).Q[torch.arange(5) % channels]
        regularizer.raw_filters.copy_(mixtures[:, :, None, None] * torch.randn(5, 1, 3, 3))
        regularizer.log_weights.copy_(0.5 * torch.arange(5)[:, None, None])
    v = torch.randn(1, channels, 10, 9)
    e = Energy(operator, regularizer.frozen(), v, 0.1)
    torch.testing.assert_close(preconditioner(e, v)(e.hessian(v)(v)), v)


def test_conjugate_gradients_need_far_fewer_products_with_it():
    clean = torch.from_numpy(camera()[100:164, 200:264] / 255.0)[None, None]
    operator = deblurring(gaussian_kernel(9, 1.5), CPU, torch.float64)(clean.shape[1:], (0,))
    functional = FieldOfExperts(1, 8, 3, CHARBONNIER, boundary="circular", weight=3e-4, smoothing=3e-3).frozen()
    e, b = Energy(operator, functional, clean, 1e-3), torch.randn_like(clean)
    tolerance = 1e-6 * norm(b)
    plain = conjugate_gradient(e.hessian(clean), b, tolerance)
    fast = conjugate_gradient(e.hessian(clean), b, tolerance, None, preconditioner(e, clean))
    assert plain.converged.all()
    assert fast.converged.all()
    torch.testing.assert_close(fast.q, plain.q, atol=1e-3 * float(plain.q.abs().max()), rtol=0)
    assert fast.iterations[0] < 0.7 * plain.iterations[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_it_is_definite_where_float32_loses_what_the_regularizer_hardly_sees(channels, seed):
    """The mean, and colours where all filters see luminance alone, weighted 10^9 times the data: what rounding leaves
    of the symbol of R, which is zero there, is larger than the data's, and negative or not."""
    random = torch.Generator().manual_seed(seed)
    regularizer = FieldOfExperts(channels, 4, 3, HUBER, boundary="circular", weight=1e9, smoothing=1.0).float()
    with torch.no_grad():
        regularizer.raw_filters.copy_(torch.randn(4, 1, 3, 3, generator=random))
    x = torch.rand(2, channels, 12, 12, dtype=torch.float32, generator=random)
    operator = denoising(CPU)(torch.Size((channels, 12, 12)), (0, 1))
    applied = preconditioner(Energy(operator, regularizer.frozen(), x), x)(x)
    assert applied.isfinite().all()
    assert ((applied * x).sum((1, 2, 3)) > 0).all()


def test_of_an_operator_of_unknown_model_it_takes_the_norm():
    """With R = 0 nothing but ||A||^2 + ridge is left."""

    class Opaque(Identity):
        norm_squared, normal_model = 4.0, None

    functional = FieldOfExperts(1, 4, 3, CHARBONNIER, boundary="circular", weight=1e-12, smoothing=1.0).frozen()
    v = torch.randn(2, 1, 9, 8)
    inverse = preconditioner(Energy(Opaque(), functional, v, 1.0), v)
    torch.testing.assert_close(inverse(v), v / 5)


def test_luminance_and_colour_are_told_apart():
    """Filters that see luminance alone, and strongly: P knows that colour differences are hardly regularized at all."""
    regularizer = FieldOfExperts(3, 4, 3, HUBER, boundary="circular", weight=100.0, smoothing=100.0)
    with torch.no_grad():
        regularizer.raw_filters.copy_(torch.randn(4, 1, 3, 3).expand(4, 3, 3, 3))
    v = torch.randn(2, 3, 12, 12)
    e = Energy(denoising(CPU)(v.shape[1:], (0, 1)), regularizer.frozen(), v)
    applied = preconditioner(e, v)(v)
    torch.testing.assert_close(applied - applied.mean(1, keepdim=True), v - v.mean(1, keepdim=True))
    assert (norm(applied.mean(1)) < 0.5 * norm(v.mean(1))).all()


def test_an_image_that_is_no_number_leaves_the_others_as_they_are():
    e = energy("foe charbonnier valid", "denoise", 3)
    x = e.y.clone()
    x[0, 0, 0, 0] = torch.nan
    applied = preconditioner(e, x)(e.y)
    torch.testing.assert_close(applied[1:], preconditioner(e, e.y)(e.y)[1:])
