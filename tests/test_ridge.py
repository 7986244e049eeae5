"""Ridge regularizers: filters composed of small ones, learned potentials, and what both keep while they are learned."""

import pytest
import torch
import torch.nn.functional as F

from app.models.model import Model, build_model, load_model, save_model
from app.settings.options import Config
from app.settings.toml import override
from regularizers import CHARBONNIER, SPLINE, WEAK_SPLINE, FieldOfExperts
from regularizers.foe.composition import ComposedFilters
from regularizers.foe.filter_bank import analysis, pad
from regularizers.foe.spline import KNOTS
from tests.problems import perturbed

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_composed_bank_is_the_chain_of_circular_convolutions(channels):
    composition = perturbed(ComposedFilters(channels, (2, 3), 4, 5))
    x = torch.randn(2, channels, 16, 15)
    chained = x
    for layer in composition.layers:
        chained = F.conv2d(pad(chained, 5, "circular"), layer)
    torch.testing.assert_close(analysis(pad(x, 13, "circular"), composition()), chained)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_composed_bank_starts_with_filters_that_differ_also_when_shifted(channels):
    bank = FieldOfExperts(channels, 60, 5, CHARBONNIER, hidden_channels=(4, 8)).functional().filters
    assert bank.shape == (60, channels, 13, 13)
    correlations = F.conv2d(F.pad(bank, (12,) * 4), bank).abs().amax((2, 3)) - torch.eye(60)
    assert correlations.max() < 0.8
    assert torch.linalg.svdvals(bank.flatten(1))[-1] > 0.05


def test_the_norm_of_the_derivative_of_a_composition_is_bounded():
    composition = perturbed(ComposedFilters(1, (2, 2), 3, 3))
    layers = tuple(composition.layers)

    def filters(*moved):
        return torch.func.functional_call(composition, {f"layers.{i}": m for i, m in enumerate(moved)}, ())

    jacobians = torch.func.jacrev(filters, tuple(range(len(layers))))(*layers)
    norm = torch.linalg.matrix_norm(torch.cat([j.flatten(4).flatten(0, 3) for j in jacobians], 1), 2)
    assert norm <= composition.derivative_norm() <= 5 * norm


@pytest.mark.parametrize("family, lowest", [(SPLINE, 0.0), (WEAK_SPLINE, -1.0)])
def test_a_learned_potential_keeps_its_convexity_whatever_is_learned(family, lowest):
    raw = 5 * torch.randn(100, len(KNOTS), generator=torch.Generator().manual_seed(0))
    assert (family.at(raw).shape >= lowest).all()


def test_a_learned_potential_starts_near_charbonnier_and_near_mcp():
    z = torch.linspace(-1.9, 1.9, 1001)[None, None]
    w, s = torch.tensor([[[0.3]]]), torch.tensor([[[0.1]]])
    learned = SPLINE.at(SPLINE.initial(0.3, 0.1)[None])
    difference = learned.influence(0.1 * z, w, s) - CHARBONNIER.influence(0.1 * z, w, s)
    assert difference.abs().max() < 0.03
    learned = WEAK_SPLINE.at(WEAK_SPLINE.initial(0.3, 0.1)[None])
    mcp = (3 * z).clamp(-1, 1) - z.clamp(-1, 1)
    assert (learned.influence(0.3 * z, w, w) - mcp).abs().max() < 0.15


@pytest.mark.parametrize("boundary", ["valid", "circular", "reflect"])
def test_weak_splines_spend_no_more_than_their_budget(boundary):
    for seed in range(3):
        r = FieldOfExperts(
            1, 6, 3, WEAK_SPLINE, boundary=boundary, weak_convexity=0.7, weight=0.5, smoothing=0.1,
            hidden_channels=(2,), shared_potential=seed != 1,
        )  # fmt: skip
        assert 0.6 < perturbed(r, seed, 2).frozen().curvature()[0] <= 0.7 * (1 + 1e-12)


def test_one_shared_shape_moves_as_the_sum_of_all():
    alone, shared = (FieldOfExperts(1, 5, 3, SPLINE, shared_potential=s) for s in (False, True))
    x, q = torch.randn(2, 1, 1, 9, 9)
    for derivatives in (FieldOfExperts.mixed, lambda r, x, _: r.slopes(x)):
        torch.testing.assert_close(derivatives(shared, x, q)[-1], derivatives(alone, x, q)[-1].sum(0, keepdim=True))


@pytest.mark.parametrize(
    "assignments",
    [["name=crr"], ["name=wcrr", "smoothing=0.001", "hidden_channels=[2]"], ["potential=spline"]],
)
@pytest.mark.parametrize("shared", ["true", "false"])
def test_a_saved_model_loads_back(assignments, shared, tmp_path):
    every = [*assignments, "filters=6", f"shared_potential={shared}"]
    config = override(Config(), [f"regularizer.{a}" for a in every])
    model = build_model(config)
    perturbed(model.regularizer)
    save_model(tmp_path / "model.safetensors", Model(model.regularizer), config, {})
    loaded, read = load_model(str(tmp_path))
    assert read == config
    x = torch.randn(1, 1, 20, 20)
    assert torch.equal(loaded.regularizer.fn(x), model.regularizer.fn(x))
