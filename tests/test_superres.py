"""Super-resolution: the blur and the grid, exact bounds, and what solvers are told of A^T A."""

import pytest
import torch
from deepinv.physics import Downsampling
from skimage.data import camera

from app.lower.energy import Energy
from app.lower.preconditioner import preconditioner
from app.lower.solution import norm
from app.problem.tasks import super_resolution
from app.upper.linear import conjugate_gradient
from datasets.blur_kernels import KernelError, antialias_kernel
from datasets.patches import whole_blocks
from regularizers import CHARBONNIER, FieldOfExperts
from tests.problems import dense, regularizer_named

pytestmark = pytest.mark.usefixtures("double")
CPU = torch.device("cpu")
CASES = [(2, 0.5, (1, 8, 10)), (2, 0.3, (3, 8, 6)), (3, 0.4, (1, 9, 12)), (4, 0.3, (1, 8, 12))]


def operator(factor, width, shape, dtype=torch.float64):
    return super_resolution(factor, antialias_kernel(factor, width), CPU, dtype)(torch.Size(shape), (0,))


@pytest.mark.parametrize(("factor", "width", "shape"), CASES)
def test_adjointness(factor, width, shape):
    a = operator(factor, width, shape)
    x = torch.randn(2, *shape)
    y = torch.randn(2, shape[0], shape[1] // factor, shape[2] // factor)
    torch.testing.assert_close((a.forward(x) * y).sum(), (x * a.adjoint(y)).sum())
    torch.testing.assert_close(a.normal(x), a.adjoint(a.forward(x)))


@pytest.mark.parametrize(("factor", "width", "shape"), CASES)
def test_the_bound_is_the_largest_eigenvalue_and_the_model_the_nearest_circulant(factor, width, shape):
    a = operator(factor, width, shape)
    matrix = dense(lambda v: torch.cat([a.normal(e[None]) for e in v]), shape)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert a.norm_squared == pytest.approx(float(eigenvalues[-1]), rel=1e-10)
    assert a.lambda_min == 0
    assert eigenvalues[0] == pytest.approx(0, abs=1e-10)
    symbol, diagonal = a.normal_model
    assert diagonal == pytest.approx(float(matrix.diag().mean()))
    _, h, w = shape
    blocks = matrix.view(*shape, *shape)[0, :, :, 0]  # of the first channel
    lags = torch.zeros(h, w)  # mean over all shifts
    for i in range(h):
        for j in range(w):
            lags += blocks[i, j].roll((-i, -j), (0, 1)) / (h * w)
    torch.testing.assert_close(torch.fft.rfft2(lags).real, symbol)


def test_for_factor_two_it_is_deepinvs_downsampling():
    a, x = operator(2, 0.5, (1, 8, 10)), torch.randn(2, 1, 8, 10)
    theirs = Downsampling((1, 8, 10), filter=antialias_kernel(2, 0.5)[None, None], factor=2, padding="circular")
    torch.testing.assert_close(a.forward(x), theirs.A(x))
    torch.testing.assert_close(a.adjoint(a.forward(x)), theirs.A_adjoint(theirs.A(x)))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_measured_pixel_lies_in_the_middle_of_its_block(factor):
    """A ramp is measured as the means of its blocks, but where the periodic image jumps."""
    ramp = torch.arange(12.0 * factor).expand(1, 1, 12 * factor, 12 * factor)
    y = operator(factor, 0.4, ramp.shape[1:]).forward(ramp)[0, 0, :, 2:-2]
    expected = ramp.unflatten(3, (12, factor)).mean(4)[0, 0, :12, 2:-2]
    torch.testing.assert_close(y, expected)


def test_noise_keeps_its_level():
    a = operator(2, 0.5, (1, 64, 64))
    y = a.measure(torch.zeros(4, 1, 64, 64), 0.1, [torch.Generator().manual_seed(n) for n in range(4)])
    assert y.shape == (4, 1, 32, 32)
    assert float(y.std()) == pytest.approx(0.1, rel=0.05)


def test_float32_gives_the_float64_result():
    x = torch.rand(1, 1, 8, 10)
    single = operator(2, 0.5, (1, 8, 10), torch.float32).normal(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), operator(2, 0.5, (1, 8, 10)).normal(x), atol=1e-6, rtol=0)


def test_images_of_broken_blocks_are_refused_and_can_be_cut():
    with pytest.raises(KernelError, match="10 x 9 pixels are not made of whole blocks of 2 x 2"):
        operator(2, 0.3, (1, 9, 10))
    x = torch.randn(1, 9, 10)
    torch.testing.assert_close(whole_blocks(x, 4), x[:, :8, :8])


@pytest.mark.parametrize("name", ["tv isotropic", "foe mcp circular", "foe charbonnier valid rescaled"])
def test_the_preconditioner_is_symmetric_and_positive_definite(name):
    a, x = operator(2, 0.3, (1, 8, 6)), torch.randn(1, 1, 8, 6)
    inverse = preconditioner(Energy(a, regularizer_named(name).frozen(), a.forward(x), 0.9), x)
    matrix = dense(lambda v: torch.cat([inverse(e[None]) for e in v]), (1, 8, 6))
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix)[0] > 0


def test_conjugate_gradients_need_fewer_products_with_the_preconditioner():
    x = torch.from_numpy(camera()[100:148, 200:248] / 255.0)[None, None]
    a = operator(2, 0.5, x.shape[1:])
    f = FieldOfExperts(1, 8, 3, CHARBONNIER, weight=3e-4, smoothing=3e-3).frozen()
    e, b = Energy(a, f, a.forward(x), 1e-3), torch.randn(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    tolerance = 1e-4 * norm(b)
    plain = conjugate_gradient(e.hessian(x), b, tolerance)
    fast = conjugate_gradient(e.hessian(x), b, tolerance, None, preconditioner(e, x))
    assert fast.converged.all()
    assert fast.iterations[0] < 0.8 * plain.iterations[0]
