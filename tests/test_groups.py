"""Potentials of groups of responses: what they are, their derivatives and their bounds."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from app.drawing.learned import filters_of, potentials_of
from app.models.build import Model, build_model
from app.models.files import load_model, save_model
from app.settings.options import Config, ConfigError
from app.settings.toml import override
from regularizers import POTENTIALS, Adaptive, AutogradFunctional, FieldOfExperts, RegularizerError
from regularizers.foe.filter_bank import analysis
from regularizers.foe.groups import KINDS, NORMS, SIZES, GroupPotential, group_potential
from tests.problems import perturbed
from tests.test_kernels import modulated

pytestmark = pytest.mark.usefixtures("double")

EVERY = [*product(KINDS, NORMS, SIZES)]
W, S = torch.tensor([[[[0.6]]], [[[0.2]]]], dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def group(kind: str, norm: str, size: int, seed: int = 0) -> GroupPotential:
    """One group, with a random matrix."""
    potential = group_potential(kind, norm, size)
    return potential.at(W, 0.7 * drawn(1, size, size, seed=seed)) if kind == "mcp" else potential


def field(kind: str, norm: str, size: int, boundary: str = "circular", **more) -> FieldOfExperts:
    return perturbed(
        FieldOfExperts(
            1, 8, 3, kind, group_size=size, group_norm=norm, boundary=boundary, weight=0.6, smoothing=0.2,
            weak_convexity=0.8, **more,
        )
    )  # fmt: skip


def as_field(u: Tensor) -> Tensor:  # (N, d) -> (d, 1, N)
    return u.T.unsqueeze(1)


def hessian_matrices(potential: GroupPotential, u: Tensor) -> Tensor:  # (N, d) -> (N, d, d)
    product = potential.hessian(as_field(u), W, S)
    columns = [product(as_field(e.expand_as(u))).squeeze(1) for e in torch.eye(u.shape[1])]
    return torch.stack(columns).permute(2, 1, 0)


def adversarial(potential: GroupPotential) -> Tensor:  # -> (N, d)
    """Groups of every size, along axes, diagonals and the singular vectors of Q, on both sides of the kinks."""
    directions = [drawn(200, potential.size), torch.eye(potential.size), torch.ones(1, potential.size)]
    reach = [0.2, 0.6]
    if potential.shape is not None:
        q = potential.shape[0, 1:].view(potential.size, potential.size)
        directions += [torch.linalg.svd(q).Vh, torch.linalg.pinv(q).T, q]
        reach.append(float(potential.shape[0, 0]))
    directions = torch.cat(directions)
    lengths = [directions.norm(dim=1), directions.abs().sum(1), directions.abs().amax(1)]
    sizes = [0.0, 1e-3, *(r * (1 + e) for r in reach for e in (-1e-6, 1e-6, -0.3, 0.3, 1.0)), 50.0]
    return torch.cat([h * directions / length[:, None] for h in sizes for length in lengths])


@pytest.mark.parametrize(("norm", "size"), [*product(NORMS, SIZES)])
def test_the_envelope_is_the_least_of_what_it_is_the_least_of(norm, size):
    """At the proximal point u - a P(u / a) the value is attained; nowhere else it is less."""
    u, a = drawn(300, size), 0.2
    potential = group("huber", norm, size)
    value = (potential.value(as_field(u), W, S) / W).flatten()
    p = potential.influence(as_field(u), W, S).squeeze(1).T

    def objective(z: Tensor) -> Tensor:
        length = z.norm(dim=-1) if norm == "l2" else z.abs().amax(-1)
        return length + (u - z).square().sum(-1) / (2 * a)

    torch.testing.assert_close(value, objective(u - a * p))
    others = u - a * p + torch.logspace(-4, 0, 60).view(-1, 1, 1) * drawn(60, 300, size, seed=1)
    assert (objective(others) >= value - 1e-12).all()
    dual = p.norm(dim=1) if norm == "l2" else p.abs().sum(1)
    assert dual.max() <= 1 + 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_group_with_one_response_that_is_not_zero_is_the_potential_of_it(kind, norm):
    """With Q = 1 and v = w."""
    t = torch.linspace(-2, 2, 401)
    u = torch.zeros(401, 4)
    u[:, 2] = t
    potential = group_potential(kind, norm, 4)
    potential = potential.at(W, torch.eye(4)[None]) if kind == "mcp" else potential
    expected = POTENTIALS[kind].value(t[None, None], W, S)
    torch.testing.assert_close(potential.value(as_field(u), W, S), expected)


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("planes", [(), ("contrasts",), ("masks",), ("contrasts", "masks")], ids="-".join)
def test_closed_forms_are_the_derivatives_of_the_value(case, planes):
    r, x, q = field(*case), drawn(2, 1, 8, 8), drawn(2, 1, 8, 8, seed=1)
    f = r.frozen()
    f = replace(f, **{name: getattr(modulated(f, x.shape), name) for name in planes})
    natural = [t.clone().requires_grad_() for t in f.natural]
    shape = {} if f.potential.shape is None else {"potential": replace(f.potential, shape=natural[3])}
    tensors = dict(zip(("filters", "weights", "smoothings"), natural, strict=False))
    tensors |= dict(zip(planes, natural[len(natural) - len(planes) :], strict=True))
    varied, at = replace(f, **tensors, **shape), x.clone().requires_grad_()
    value = varied.value(at).sum()
    gradient, *slopes = torch.autograd.grad(value, (at, *natural), create_graph=True)
    hessian, *mixed = torch.autograd.grad((gradient * q).sum(), (at, *natural))
    with torch.no_grad():
        results = f.gradient(x), f.hessian(x)(q), *f.slopes(x), *f.mixed(x, q)
    for a, b in zip(results, (gradient, hessian, *slopes, *mixed), strict=True):
        torch.testing.assert_close(a, b.detach())


@pytest.mark.parametrize(("case", "hidden"), [*((case, ()) for case in EVERY), (("mcp", "linf", 4), (2,))])
def test_derivatives_by_the_parameters_reach_the_module(case, hidden):
    r, x, q = field(*case, hidden_channels=hidden), drawn(2, 1, 8, 8), drawn(2, 1, 8, 8, seed=1)
    reference = AutogradFunctional.of(r)
    for a, b in zip((*r.mixed(x, q), *r.slopes(x)), (*reference.mixed(x, q), *reference.slopes(x)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("norm", "size"), [*product(NORMS, SIZES)])
def test_derivatives_by_the_matrices_are_those_of_differences(norm, size):
    r, x, q, step = field("mcp", norm, size), drawn(1, 1, 9, 9), drawn(1, 1, 9, 9, seed=1), 1e-6
    at = [name for name, _ in r.named_parameters()].index("raw_matrices")
    direction, found = drawn(*r.raw_matrices.shape, seed=2), (r.mixed(x, q)[at], r.slopes(x)[at])

    def moved(h: float) -> tuple[float, float]:
        with torch.no_grad():
            r.raw_matrices += h * direction
            values = float((r.grad(x) * q).sum()), float(r.value(x).sum())
            r.raw_matrices -= h * direction
        return values

    for a, after, before in zip(found, moved(step), moved(-step), strict=True):
        assert float((a * direction).sum()) == pytest.approx((after - before) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("case", EVERY)
def test_hessians_of_a_group_stay_within_the_bounds_at_adversarial_points(case):
    lowest, highest = 0.0, 0.0
    for seed in range(5):
        potential = group(*case, seed=seed)
        matrices = hessian_matrices(potential, adversarial(potential))
        torch.testing.assert_close(matrices, matrices.mT)
        eigenvalues = torch.linalg.eigvalsh(matrices)
        assert eigenvalues.min() >= -potential.weak_convexity(W, S) - 1e-12
        assert eigenvalues.max() <= potential.largest_curvature(W, S) + 1e-12
        lowest, highest = min(lowest, float(eigenvalues.min())), max(highest, float(eigenvalues.max()))
    assert highest > 0.6 * 3, "the bound is far from what it bounds"
    if case[0] == "mcp":
        assert lowest == pytest.approx(-1), "the budget is not spent"
        values = potential.value(as_field(adversarial(potential)), W, S)
        assert values.min() >= -1e-12


@pytest.mark.parametrize("boundary", ["valid", "circular", "reflect"])
@pytest.mark.parametrize("case", [c for c in EVERY if c[2] == 4])
def test_curvature_bounds_hold_for_the_dense_hessian(case, boundary):
    """At random images, and where most responses are in the concave part."""
    f = field(*case, boundary).frozen()
    rho, largest = f.curvature()
    assert rho == pytest.approx(0.8 if case[0] == "mcp" else 0)
    found = []
    for height in (0.0, 0.05, 0.2, 0.5, 0.8, 1.5, 4.0, 100.0):
        h = f.hessian((height * drawn(1, 1, 8, 8)).expand(64, -1, -1, -1))
        found.append(torch.linalg.eigvalsh(h(torch.eye(64).view(64, 1, 8, 8)).flatten(1)))
    found = torch.cat(found)
    assert found.min() >= -rho - 1e-12
    assert found.max() <= largest + 1e-12
    assert found.max() > 0.5 * largest or boundary == "reflect"
    assert found.min() < (-0.1 if boundary != "reflect" else -0.03) or case[0] == "huber"


def test_the_matrices_are_within_the_budget_whatever_is_learned():
    for norm, size in product(NORMS, SIZES):
        for scale in (1e-3, 1.0, 1e3):
            shape = group_potential("mcp", norm, size).at(W.expand(50, 1, 1), scale * drawn(50, size, size)).shape
            assert shape is not None
            v, q = shape[:, 0], shape[:, 1:].unflatten(1, (size, size))
            torch.testing.assert_close(torch.linalg.matrix_norm(q, 2), torch.ones(50))
            by_n = torch.ones(50) if norm == "l2" else q.abs().sum(2).amax(1)
            assert (v * by_n <= 0.6 + 1e-12).all()
            assert (v > 0).all()


@pytest.mark.parametrize("case", EVERY)
def test_the_curvature_models_diagonal_is_that_of_the_groups(case):
    f, x = field(*case, "valid").frozen(), drawn(1, 1, 3, 3)
    u = analysis(x, f.filters)
    every = [f.potential.hessian(u, f.weights, f.smoothings)(e.view(1, 8, 1, 1)) for e in torch.eye(8)]
    diagonal = torch.stack([column[0, k, 0, 0] for k, column in enumerate(every)])
    torch.testing.assert_close(f.potential.curvature(u, f.weights, f.smoothings).flatten(), diagonal)
    expected = f.scale * (diagonal.abs().view(-1, 1, 1, 1) * f.filters.square()).sum(0)
    torch.testing.assert_close(f.curvature_model(x)[1][0], expected)


@pytest.mark.parametrize("norm", NORMS)
def test_each_group_has_one_contrast_of_an_adaptive_regularizer(norm):
    x, q = drawn(1, 1, 9, 9), drawn(1, 1, 9, 9, seed=1)
    r = perturbed(Adaptive(field("mcp", norm, 4), 3), 1).conditioned_on(0.1 * x)
    f, reference = r.frozen(), AutogradFunctional.of(r)
    assert f.contrasts.shape == (1, 2, 9, 9)
    assert f.curvature() == r.base.frozen().curvature()
    results = f.gradient(x), f.hessian(x)(q), *r.mixed(x, q), *r.slopes(x)
    expected = reference.gradient(x), reference.hessian(x)(q), *reference.mixed(x, q), *reference.slopes(x)
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_derivatives_by_the_first_matrices_are_those_of_differences():
    """They begin where their norms have derivatives."""
    for norm in NORMS:
        r = FieldOfExperts(1, 8, 3, "mcp", group_size=4, group_norm=norm, weight=0.6, smoothing=0.2)
        x, step, at = drawn(1, 1, 9, 9), 1e-6, [name for name, _ in r.named_parameters()].index("raw_matrices")
        found, values = r.slopes(x)[at], []
        direction = drawn(*found.shape, seed=2)
        for h in (step, -2 * step):
            with torch.no_grad():
                r.raw_matrices += h * direction
                values.append(float(r.value(x).sum()))
        assert float((found * direction).sum()) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_impossible_groups_are_refused():
    for mistake, message in [
        ({"potential": "log"}, "huber or mcp, not log"), ({"group_size": 0}, "2 or 4, not 0"),
        ({"group_norm": "l1"}, "l2 or linf, not l1"), ({"filters": 30}, "multiple of group_size = 4, not 30"),
    ]:  # fmt: skip
        with pytest.raises(RegularizerError, match=message):
            FieldOfExperts(1, **({"potential": "mcp", "group_size": 4} | mistake))
    r = field("mcp", "l2", 2)
    assert not r.has_sensitivity
    with pytest.raises(RegularizerError, match="not known"):
        r.sensitivity(drawn(1, 1, 8, 8), drawn(1, 1, 8, 8), torch.tensor([0.1]))


SETTINGS = [
    "regularizer.name=foe", "regularizer.potential=mcp", "regularizer.weight=0.05", "regularizer.smoothing=0.01",
    "regularizer.group_size=4", "regularizer.group_norm=linf", "regularizer.filters=8",
]  # fmt: skip


def test_a_saved_model_loads_back_at_every_noise_level(tmp_path):
    levels = ["regularizer.noise_nodes=3", "problem.noise_level=[5/255, 50/255]"]
    config = override(Config(), [*SETTINGS, *levels, "regularizer.hidden_channels=[2]", "regularizer.filter_size=3"])
    model = build_model(config)
    assert isinstance(model, Model)
    perturbed(model.regularizer)
    save_model(tmp_path / "model.safetensors", model, config, {})
    loaded, again = load_model(str(tmp_path / "model.safetensors"))
    assert again == config
    x = drawn(1, 1, 9, 9)
    for level in (0.03, 0.11):
        a, b = model.regularizer.at(level), loaded.regularizer.double().at(level)
        torch.testing.assert_close(a.value(x).float(), b.value(x).float())


def test_settings_of_groups_are_read_where_there_are_groups():
    with pytest.raises(ConfigError, match="group_size = 3; allowed are 1, 2, 4"):
        override(Config(), ["regularizer.potential=mcp", "regularizer.group_size=3"])
    with pytest.raises(ConfigError, match=r"group_size = 2 is not read here: it is for .*huber or mcp"):
        override(Config(), ["regularizer.potential=log", "regularizer.group_size=2"])
    with pytest.raises(ConfigError, match=r"group_norm = .* is not read here: .* regularizer.group_size above 1"):
        override(Config(), ["regularizer.potential=huber", "regularizer.group_norm=linf"])
    with pytest.raises(ConfigError, match=r"proven is not for regularizer.group_size above 1"):
        override(Config(), [*SETTINGS, "upper.algorithm=maid", "upper.relative_error=proven"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_float32_is_drawn(kind):
    assert potentials_of(field(kind, "linf", 4).float())
    assert filters_of(field(kind, "linf", 4).float())
