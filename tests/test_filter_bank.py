"""The fast filter bank against torch's plain convolution."""

import pytest
import torch
import torch.nn.functional as F

from regularizers.foe import filter_bank
from regularizers.foe.filter_bank import (
    analysis,
    autocorrelation,
    filter_gradient,
    pad,
    pad_adjoint,
    spectral_bound,
    synthesis,
    tiles,
)

pytestmark = pytest.mark.usefixtures("double")


def bank(channels: int, size: int, filters: int = 4) -> torch.Tensor:
    return torch.randn(filters, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_analysis_is_a_correlation(channels, size):
    x, c = torch.randn(2, channels, 12, 11), bank(channels, size)
    torch.testing.assert_close(analysis(x, c), F.conv2d(x, c))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("boundary", filter_bank.BOUNDARIES)
def test_synthesis_after_pad_adjoint_is_the_adjoint_of_padded_analysis(boundary, channels):
    x, c = torch.randn(2, channels, 9, 10), bank(channels, 5)
    u = analysis(pad(x, 5, boundary), c)
    z = torch.randn_like(u)
    torch.testing.assert_close((u * z).sum(), (x * pad_adjoint(synthesis(z, c), 5, boundary)).sum())


@pytest.mark.parametrize("channels", [1, 3])
def test_filter_gradient_is_the_derivative_by_the_filters(channels):
    x, c = torch.randn(2, channels, 9, 10), bank(channels, 5)
    z = torch.randn(2, 4, 5, 6)
    expected = (analysis(x, c.requires_grad_()) * z).sum()
    torch.testing.assert_close(filter_gradient(x, z, 5), torch.autograd.grad(expected, c)[0])


def test_tiles_partition_the_responses_without_seams(monkeypatch):
    c, x = bank(1, 5), torch.randn(3, 1, 60, 20)
    whole = synthesis(analysis(x, c).tanh(), c)
    monkeypatch.setattr(filter_bank, "TILE", 2 * 4 * 20 * 8)
    summed, count = torch.zeros_like(x), 0
    for tile in tiles(x.shape, c):
        summed[tile] += synthesis(analysis(x[tile], c).tanh(), c)
        count += 1
    assert count > 6
    torch.testing.assert_close(summed, whole)


@pytest.mark.parametrize("channels", [1, 3])
def test_autocorrelation_is_the_stencil_of_synthesis_after_analysis(channels):
    c, delta = bank(channels, 5), torch.zeros(channels, channels, 17, 17)
    for d in range(channels):
        delta[d, d, 8, 8] = 1
    for k in range(len(c)):
        kernel = synthesis(analysis(delta, c[k : k + 1]), c[k : k + 1])[:, :, 4:13, 4:13]  # [d, c, -lag]
        torch.testing.assert_close(autocorrelation(c)[k].transpose(0, 1).flip(2, 3), kernel)


@pytest.mark.parametrize("channels", [1, 3])
def test_spectral_bound_is_above_the_finest_spectrum_and_close_to_it(channels):
    c, w = bank(channels, 7), torch.rand(4)
    spectrum = torch.fft.fft2(c, s=(512, 512)) * w.sqrt()[:, None, None, None]
    matrices = torch.einsum("kahw,kbhw->hwab", spectrum.conj(), spectrum)
    largest = torch.linalg.eigvalsh(matrices)[..., -1].max()
    bound = spectral_bound(c, w, "valid")
    assert largest <= bound <= 1.1 * largest
