"""Closed forms against autograd, bounds against dense Hessians, properties every regularizer must have."""

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn

from regularizers import AutogradFunctional, FieldOfExperts, Regularizer, RegularizerError, TotalVariation
from regularizers.foe.potentials import CHARBONNIER, MCP, POTENTIALS
from regularizers.foe.spline import KNOTS, LearnedPotential
from regularizers.tv import differences, differences_adjoint
from tests.conftest import ROOT
from tests.problems import NAMES, dense_hessian, perturbed, regularizer_named, rescaled

pytestmark = pytest.mark.usefixtures("double")

CASES = [(name, channels) for name in NAMES for channels in (1, 3)]


def images(batch: int, channels: int, size: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_closed_forms_are_the_derivatives_of_the_value(name, channels):
    """The gradient, Hessian products and both derivatives by parameters, against autograd through the value."""
    r, x, q = regularizer_named(name, channels), images(2, channels), images(2, channels, seed=2)
    f, reference = r.frozen(), AutogradFunctional.of(r)
    torch.testing.assert_close(f.gradient(x), reference.gradient(x).detach())
    torch.testing.assert_close(f.hessian(x)(q), reference.hessian(x)(q))
    for a, b in zip((*r.mixed(x, q), *r.slopes(x)), (*reference.mixed(x, q), *reference.slopes(x)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_the_gradient_itself_can_be_differentiated(name, channels):
    """deepinv's unrolled and deep-equilibrium architectures back-propagate through `grad`."""
    r = regularizer_named(name, channels)
    x, q = images(2, channels).requires_grad_(), images(2, channels, seed=2)
    by_image, *by_parameters = torch.autograd.grad((r.grad(x) * q).sum(), (x, *r.parameters()))
    torch.testing.assert_close(by_image, r.frozen().hessian(x.detach())(q))
    for a, b in zip(by_parameters, r.mixed(x.detach(), q), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_curvature_bounds_hold_for_the_dense_hessian(name, channels):
    r = regularizer_named(name, channels)
    rho, largest = r.frozen().curvature()
    tightest = 0.0
    for scale in (0.0, 0.01, 0.3, 3.0):
        x = scale * images(1, channels)
        eigenvalues = torch.linalg.eigvalsh(dense_hessian(r.frozen(), x))
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
    f, x = regularizer_named(name, channels).frozen(), images(1, channels)
    matrix = dense_hessian(f, x)
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
    f, x = regularizer_named(name, channels).frozen(), torch.zeros(1, channels, 8, 8)
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
    r = regularizer_named(name, channels)
    x = torch.tensor([0.3, -0.7, 0.9])[:channels, None, None].expand(1, channels, 9, 8)
    torch.testing.assert_close(r.fn(x), torch.zeros(1))
    torch.testing.assert_close(r.grad(x), torch.zeros_like(x))


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_an_image_is_worth_the_same_alone_and_in_a_batch(name, channels):
    r, x = regularizer_named(name, channels), images(4, channels)
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
    for r in map(regularizer_named, NAMES):
        x = images(2, 1, 16)
        expected = r.grad(x)
        single = r.float().grad(x.float()).double()
        assert (single - expected).norm() <= 2e-6 * expected.norm()


def test_more_filters_than_atoms_are_all_different():
    bank = FieldOfExperts(1, 20, 3, CHARBONNIER).functional().filters.flatten(1)
    cosines = (bank @ bank.T).abs() - torch.eye(20)
    assert cosines.max() < 0.99


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"filter_size": 4}, "odd"),
        ({"potential": "hubert"}, "one of charbonnier, huber, mcp, log, spline, weak_spline, not hubert"),
        ({"boundary": "periodic"}, "one of valid, circular, reflect, not periodic"),
        ({"noise_nodes": 1}, "at least 2"),
        ({"filters": 1000, "filter_size": 3}, "at most 32 filters"),
        ({"potential": "mcp"}, "smoothing = 0.01 must be above 0 and below weight = 0.01"),
        ({"potential": "weak_spline"}, "below weight = 0.01"),
        ({"potential": "mcp", "smoothing": 0.001, "largest_curvature": 5.0}, "above 0.002 and below"),
        ({"least_smoothing": 0.02}, "smoothing = 0.01 must be above 0.02"),
    ],
)
def test_impossible_fields_of_experts_are_refused(mistake, message):
    with pytest.raises(RegularizerError, match=message):
        FieldOfExperts(1, **mistake)


def test_a_potential_has_a_name():
    a, b = FieldOfExperts(1, 4, 3, "huber"), FieldOfExperts(1, 4, 3, POTENTIALS["huber"])
    x = images(1, 1)
    assert torch.equal(a.fn(x), b.fn(x))


class Smoothness(Regularizer):
    """R(x) = sum_i w ((1 + |D x|_i^2)^(1/2) - 1), with a parameter that R does not use and a buffer that it does."""

    def __init__(self, weight: float = 0.3, **more: float) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.tensor(weight).log())
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("unit", torch.ones(()))

    def value(self, x: torch.Tensor) -> torch.Tensor:
        squared = differences(x).square().sum(1)
        return (self.log_weight.exp() * self.unit * ((1 + squared).sqrt() - 1)).sum((1, 2, 3))

    def curvature(self) -> tuple[float, float]:
        return 0.0, 8 * float(self.log_weight.exp() * self.unit)


def test_value_and_curvature_are_all_that_a_regularizer_needs():
    """This one is isotropic total variation with s = 1 and weight w on one channel."""
    own, shipped = Smoothness(0.3), TotalVariation(1, weight=0.3, smoothing=1.0)
    x, q = images(2, 1), images(2, 1, seed=2)
    torch.testing.assert_close(own.fn(x), shipped.fn(x))
    torch.testing.assert_close(own.grad(x), shipped.grad(x))
    torch.testing.assert_close(own.frozen().hessian(x)(q), shipped.frozen().hessian(x)(q))
    assert own.frozen().curvature() == pytest.approx(shipped.curvature())
    assert own.frozen().curvature_model(x) is None
    assert rescaled(own).frozen().curvature_model(x) is None
    for mine, theirs in ((own.mixed(x, q), shipped.mixed(x, q)), (own.slopes(x), shipped.slopes(x))):
        torch.testing.assert_close(mine[0], theirs[0].squeeze())
        assert torch.equal(mine[1], torch.zeros(3))
    a, b = (rescaled(r).mixed(x, q) for r in (own, shipped))
    torch.testing.assert_close(a, b)


def test_what_is_frozen_stays_when_the_parameters_move():
    own, x = Smoothness(), images(2, 1)
    frozen = own.frozen()
    product = frozen.hessian(x)
    before = frozen.value(x), frozen.gradient(x), product(x), torch.tensor(frozen.curvature())
    with torch.no_grad():
        own.log_weight += 1
        own.unit += 1
    after = frozen.value(x), frozen.gradient(x), product(x), torch.tensor(frozen.curvature())
    assert all(map(torch.equal, before, after))
    assert not torch.equal(own.fn(x), before[0])


def test_derivatives_by_autograd_leave_no_graph_and_the_callers_tensors_as_they_were():
    own, x, q = Smoothness(), images(2, 1), images(2, 1, seed=2)
    f = own.frozen()
    kept = x.clone(), q.clone()
    results = [f.value(x), f.gradient(x), f.hessian(x)(q), *own.mixed(x, q), *own.slopes(x)]
    with torch.no_grad():
        inside = [own.fn(x), own.grad(x), own.frozen().hessian(x)(q), *own.mixed(x, q), *own.slopes(x)]
    for a, b in zip(results, inside, strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
        assert not b.requires_grad
        a.add_(1)  # a tensor of its own
    assert not x.requires_grad
    assert torch.equal(x, kept[0])
    assert torch.equal(q, kept[1])


class Sum(Regularizer):
    """A value whose gradient is constant, and whose Hessian product is a constant times its argument."""

    def __init__(self, square: float) -> None:
        super().__init__()
        self.square = square

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum((1, 2, 3)) + self.square * x.square().sum((1, 2, 3)) / 2

    def curvature(self) -> tuple[float, float]:
        return 0.0, self.square


@pytest.mark.parametrize("square", [0.0, 1.0])
def test_products_do_not_share_memory_with_what_they_are_products_of(square):
    x, v = images(1, 1), images(1, 1, seed=2)
    product = Sum(square).frozen().hessian(x)(v)
    torch.testing.assert_close(product, square * v)
    product += 1
    assert torch.equal(v, images(1, 1, seed=2))
    Sum(square).frozen().gradient(x).add_(1)


def test_the_gradient_by_autograd_can_itself_be_differentiated():
    own, x, q = Smoothness(), images(2, 1).requires_grad_(), images(2, 1, seed=2)
    by_image, by_weight = torch.autograd.grad((own.grad(x) * q).sum(), (x, own.log_weight))
    torch.testing.assert_close(by_image, own.frozen().hessian(x)(q))
    torch.testing.assert_close(by_weight, own.mixed(x.detach(), q)[0])


def test_a_value_that_is_not_one_number_per_image_is_refused():
    class Whole(Sum):
        def value(self, x: torch.Tensor) -> torch.Tensor:
            return super().value(x).sum()

    with pytest.raises(RegularizerError, match=r"Whole.value must .* shape \(2,\) for images .*, not shape \(\)"):
        Whole(1.0).grad(images(2, 1))


def test_what_a_regularizer_cannot_do_is_said_in_a_sentence():
    x = images(1, 1)
    with pytest.raises(RegularizerError, match="Regularizer must override value"):
        Regularizer().fn(x)
    with pytest.raises(RegularizerError, match="no guide"):
        Smoothness().conditioned_on(x)
    for r in (Smoothness(), rescaled(Smoothness()), regularizer_named("icnn")):
        assert not r.has_sensitivity
        with pytest.raises(RegularizerError, match="not known"):
            r.sensitivity(x, x, torch.tensor([0.1]))
    assert all(regularizer_named(name).has_sensitivity for name in NAMES if name != "icnn")


def test_a_regularizer_remembers_its_arguments_wherever_it_is_copied():
    r = Smoothness(0.4, another=2.0)
    assert r.arguments == {"weight": 0.4, "another": 2.0}
    assert TotalVariation(3).arguments == {
        "channels": 3, "isotropic": True, "weight": 0.01, "smoothing": 0.01, "noise_nodes": 0,
    }  # fmt: skip
    for again in (copy.copy(r), copy.deepcopy(r), pickle.loads(pickle.dumps(r)), r.at(0.1)):
        assert again.arguments == r.arguments
        assert torch.equal(again.fn(images(1, 1)), r.fn(images(1, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_regularizer_has_the_same_value(name):
    """As `torch.save` of a whole model and processes that are started anew ask for."""
    r = regularizer_named(name)
    again = pickle.loads(pickle.dumps(r))
    assert torch.equal(again.value(images(2, 1)), r.value(images(2, 1)))
    assert getattr(again, "potential", None) is getattr(r, "potential", None), "a record is one object"


@pytest.mark.parametrize("name", NAMES)
def test_a_regularizer_built_again_from_its_arguments_holds_the_same_tensors(name):
    r = regularizer_named(name)
    again = type(r)(**r.arguments)
    again.load_state_dict(r.state_dict())
    again = again.at(r.noise_level)
    assert torch.equal(again.fn(images(1, 1)), r.fn(images(1, 1)))


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0])
def test_the_regularizer_of_the_readme_keeps_the_bounds_it_states(scale):
    text = (ROOT / "regularizers" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    f, x = names["SecondDifferences"](0.5).frozen(), scale * images(1, 1)
    rho, largest = f.curvature()
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(f, x))
    assert eigenvalues[0] >= -rho - 1e-10
    assert eigenvalues[-1] <= largest
    assert scale > 0 or eigenvalues[-1] > largest / 2, "the bound is far from what it bounds"
    torch.testing.assert_close(f.value(torch.ones_like(x)), torch.zeros(1))
