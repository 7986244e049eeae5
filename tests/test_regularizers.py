"""Closed forms against autograd, bounds against dense Hessians, properties every regularizer must have."""

import pytest
import torch

from regularizers import FieldOfExperts, TotalVariation
from regularizers.foe.potentials import CHARBONNIER, MCP, POTENTIALS
from regularizers.foe.spline import KNOTS, LearnedPotential
from regularizers.tv import differences, differences_adjoint
from tests.problems import NAMES, dense, perturbed, regularizers

pytestmark = pytest.mark.usefixtures("double")

CASES = [(name, channels) for name in NAMES for channels in (1, 3)]


def images(batch: int, channels: int, size: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_gradient_is_the_derivative_of_the_value(name, channels):
    r = regularizers(channels)[name]
    x = images(2, channels).requires_grad_()
    (expected,) = torch.autograd.grad(r.fn(x).sum(), x)
    torch.testing.assert_close(r.grad(x.detach()), expected)


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_hessian_is_the_derivative_of_the_gradient(name, channels):
    r, v = regularizers(channels)[name], images(2, channels, seed=2)
    x = images(2, channels).requires_grad_()
    (g,) = torch.autograd.grad(r.fn(x).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad((g * v).sum(), x)
    torch.testing.assert_close(r.frozen().hessian(x.detach())(v), expected)


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_mixed_is_the_parameter_derivative_of_the_directional_derivative(name, channels):
    r, q = regularizers(channels)[name], images(2, channels, seed=2)
    x = images(2, channels).requires_grad_()
    (g,) = torch.autograd.grad(r.fn(x).sum(), x, create_graph=True)
    expected = torch.autograd.grad((g * q).sum(), tuple(r.parameters()))
    for a, b in zip(r.mixed(x.detach(), q), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_slopes_are_the_parameter_derivatives_of_the_value(name, channels):
    r, x = regularizers(channels)[name], images(2, channels)
    expected = torch.autograd.grad(r.fn(x).sum(), tuple(r.parameters()))
    for a, b in zip(r.slopes(x), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_the_gradient_itself_can_be_differentiated(name, channels):
    """deepinv's unrolled and deep-equilibrium architectures back-propagate through `grad`."""
    r = regularizers(channels)[name]
    x, q = images(2, channels).requires_grad_(), images(2, channels, seed=2)
    by_image, *by_parameters = torch.autograd.grad((r.grad(x) * q).sum(), (x, *r.parameters()))
    torch.testing.assert_close(by_image, r.frozen().hessian(x.detach())(q))
    for a, b in zip(by_parameters, r.mixed(x.detach(), q), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_curvature_bounds_hold_for_the_dense_hessian(name, channels):
    r = regularizers(channels)[name]
    rho, largest = r.frozen().curvature()
    tightest = 0.0
    for scale in (0.0, 0.01, 0.3, 3.0):
        x = scale * images(1, channels)
        h = r.frozen().hessian(x)
        eigenvalues = torch.linalg.eigvalsh(
            dense(lambda v, h=h: torch.cat([h(e[None]) for e in v]), tuple(x.shape[1:]))
        )
        assert eigenvalues[0] >= -rho - 1e-10
        assert eigenvalues[-1] <= largest + 1e-10
        tightest = max(tightest, float(eigenvalues[-1]) / largest)
    if "circular" in name or "tv" in name:
        assert tightest > 0.5, "the bound is far from what it bounds"


@pytest.mark.parametrize(
    ("name", "channels"), [c for c in CASES if not c[0].startswith(("foe mcp", "foe log", "tv iso", "wcrr", "icnn"))]
)
def test_the_curvature_model_has_the_diagonal_of_the_hessian(name, channels):
    """Where phi'' is positive and differences do not share a root."""
    f, x = regularizers(channels)[name].frozen(), images(1, channels)
    matrix = dense(lambda v: torch.cat([f.hessian(x)(e[None]) for e in v]), tuple(x.shape[1:]))
    if "reflect" in name:  # one pixel may stand at two places of a filter; the interior has the diagonal itself
        inner = torch.zeros_like(x, dtype=torch.bool)
        inner[..., 3:-3, 3:-3] = True
    else:
        inner = torch.ones_like(x, dtype=torch.bool)
    torch.testing.assert_close(f.curvature_model(x)[1][inner], matrix.diag().view_as(x)[inner])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["foe huber circular", "foe charbonnier circular"])
def test_the_curvature_models_stencil_is_the_hessian_where_curvature_is_constant(name, channels):
    """At x = 0 the curvature is w / s everywhere."""
    f, x = regularizers(channels)[name].frozen(), torch.zeros(1, channels, 8, 8)
    v = torch.zeros_like(x)
    v[0, 0, 4, 4] = 1
    column = f.hessian(x)(v)[0, :, 2:7, 2:7].flip(1, 2)  # [d, lag of the pixel from the row]
    torch.testing.assert_close(f.curvature_model(x)[0][0, :, 0], column)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("boundary", ["valid", "circular", "reflect"])
def test_mcp_keeps_its_weak_convexity_whatever_is_learned(boundary, channels):
    for seed in range(5):
        r = perturbed(
            FieldOfExperts(channels, 6, 5, MCP, boundary=boundary, weak_convexity=0.7, weight=0.5, smoothing=0.1),
            seed,
            2,
        )
        rho, _ = r.frozen().curvature()
        assert rho == pytest.approx(0.7)


@pytest.mark.parametrize("potential", POTENTIALS)
def test_potentials_stay_within_their_curvature_bounds_and_are_even(potential):
    w, s = torch.tensor([[[0.6]]]), torch.tensor([[[0.2]]])
    phi = POTENTIALS[potential]
    if isinstance(phi, LearnedPotential):
        phi = phi.at(torch.randn(1, len(KNOTS), generator=torch.Generator().manual_seed(0)))
    t = torch.linspace(-2, 2, 4001)
    curvature = phi.curvature(t, w, s)
    assert curvature.max() <= phi.largest_curvature(w, s) + 1e-12
    assert curvature.min() >= -phi.weak_convexity(w, s) - 1e-12
    torch.testing.assert_close(phi.value(t, w, s), phi.value(-t, w, s))
    slopes = torch.gradient(phi.value(t, w, s).flatten(), spacing=(t,))[0]
    torch.testing.assert_close((w * phi.influence(t, w, s)).flatten()[1:-1], slopes[1:-1], atol=4e-3, rtol=0)


def test_the_log_potential_attains_its_bounds_and_varies_as_much_as_claimed():
    """On intervals between any two of many points; the claimed constants are attained up to the grid."""
    phi, w, s = POTENTIALS["log"], torch.tensor(0.6), torch.tensor(0.2)
    t = torch.linspace(0, 2, 8001)
    assert phi.curvature(t, w, s).min() == pytest.approx(-float(phi.weak_convexity(w, s)), rel=1e-6)
    derivatives = [f(t, w, s) for f in (phi.curvature, *phi.derivatives_by_parameters)]
    for i, j in [(0, 8000), (0, 100), (200, 900), (330, 400), (700, 1400), (1500, 5000), (2000, 2100)]:
        claimed = phi.variation(t[i], t[j], w, s)
        assert phi.curvature(t[i : j + 1], w, s).abs().max() == pytest.approx(float(claimed.curvature), rel=1e-5)
        for d, lipschitz in zip(derivatives, claimed.lipschitz, strict=True):
            steepest = float((d[i : j + 1].diff() / t[1]).abs().max())
            assert 0.97 * lipschitz <= steepest <= lipschitz * (1 + 1e-9)


def test_mcp_is_the_published_spline_and_saturates():
    """phi'(t) = (clip(beta alpha t, -1, 1) - clip(alpha t, -1, 1)) / alpha with alpha = 1 / w, beta = w / s."""
    w, s = torch.tensor(0.5), torch.tensor(0.1)
    t = torch.linspace(-2, 2, 101)
    alpha, beta = 1 / w, w / s
    expected = ((beta * alpha * t).clamp(-1, 1) - (alpha * t).clamp(-1, 1)) / alpha
    torch.testing.assert_close(w * MCP.influence(t, w, s), expected)
    assert MCP.influence(torch.tensor([0.6, 3.0]), w, s).abs().max() == 0


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_a_constant_image_costs_nothing(name, channels):
    r = regularizers(channels)[name]
    x = torch.tensor([0.3, -0.7, 0.9])[:channels, None, None].expand(1, channels, 9, 8)
    torch.testing.assert_close(r.fn(x), torch.zeros(1))
    torch.testing.assert_close(r.grad(x), torch.zeros_like(x))


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_an_image_is_worth_the_same_alone_and_in_a_batch(name, channels):
    r, x = regularizers(channels)[name], images(4, channels)
    torch.testing.assert_close(r.fn(x), torch.cat([r.fn(e[None]) for e in x]))
    torch.testing.assert_close(r.grad(x), torch.cat([r.grad(e[None]) for e in x]))


def test_tv_of_a_ramp_is_its_slope():
    """The root must hold squares: |dx + dy| of a ramp with slopes 1 and -1 would be 0."""
    i, j = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    ramp = (i - j)[None, None]
    inner, weight = 81, 0.7
    isotropic = TotalVariation(1, True, weight=weight, smoothing=1e-9).fn(ramp)
    edge = 18  # last row and column have one difference each
    torch.testing.assert_close(isotropic, torch.tensor([weight * (inner * 2**0.5 + edge)]), rtol=1e-6, atol=0)
    anisotropic = TotalVariation(1, False, weight=weight, smoothing=1e-9).fn(ramp)
    torch.testing.assert_close(anisotropic, torch.tensor([weight * (2 * inner + edge)]), rtol=1e-6, atol=0)


def test_differences_and_their_adjoint_are_adjoint():
    x, g = images(2, 3, 7), torch.randn(2, 2, 3, 7, 7)
    torch.testing.assert_close((differences(x) * g).sum(), (x * differences_adjoint(g)).sum())


def test_float32_gives_the_float64_result():
    for r in regularizers(1).values():
        x = images(2, 1, 16)
        expected = r.grad(x)
        single = r.float().grad(x.float()).double()
        assert (single - expected).norm() <= 2e-6 * expected.norm()


def test_more_filters_than_atoms_are_all_different():
    bank = FieldOfExperts(1, 20, 3, CHARBONNIER).functional().filters.flatten(1)
    cosines = (bank @ bank.T).abs() - torch.eye(20)
    assert cosines.max() < 0.99


def test_even_filter_sizes_are_refused():
    with pytest.raises(ValueError, match="odd"):
        FieldOfExperts(1, 4, 4, CHARBONNIER)
