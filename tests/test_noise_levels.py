"""One model for many noise levels: interpolation between nodes, the levels a run visits, and the command line."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from app.cli import main, resolve_experiment
from app.lower import lbfgs
from app.lower.energy import Energy
from app.models.build import build_model
from app.models.files import load_model, save_model
from app.problem.losses import SquaredError
from app.problem.noise_levels import NoiseLevels
from app.settings.options import Config, ConfigError
from app.settings.toml import override
from app.training.session import finish
from app.training.start import begin
from app.upper import direction
from app.upper.descent import Descent
from app.upper.hypergradient import hypergradient
from app.upper.method import Batch
from app.upper.methods.isgd import Isgd
from regularizers import MCP, FieldOfExperts, NoiseLevelError, TotalVariation
from regularizers.noise_levels import HIGHEST, LOWEST, REFERENCE, interpolate
from tests.problems import Identity, perturbed
from tests.test_cli import SMALL, refused

ALL = ["--set", "regularizer.noise_nodes=3", "--set", "problem.noise_level=[5/255, 50/255]"]
RANGE = ["problem.noise_level=[5/255, 50/255]"]


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_interpolation_hits_the_nodes_and_is_linear_in_the_logarithm():
    values = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    nodes = [LOWEST * (HIGHEST / LOWEST) ** (n / 3) for n in range(4)]
    for n, node in enumerate(nodes):
        torch.testing.assert_close(interpolate(values, min(node, HIGHEST)), values[n])
    between = nodes[1] ** 0.3 * nodes[2] ** 0.7
    torch.testing.assert_close(interpolate(values, between), 0.3 * values[1] + 0.7 * values[2])


@pytest.mark.usefixtures("double")
def test_initial_weights_and_smoothings_are_proportional_to_the_noise_level():
    for r in (
        FieldOfExperts(1, 4, 3, MCP, weight=0.05, smoothing=0.005, noise_nodes=5),
        TotalVariation(1, noise_nodes=5),
    ):
        at_reference = r.at(REFERENCE).frozen().natural[-2:]
        for level in (LOWEST, 0.03, 0.1, HIGHEST):
            for a, b in zip(r.at(level).frozen().natural[-2:], at_reference, strict=True):
                torch.testing.assert_close(a, b * level / REFERENCE)


@pytest.mark.usefixtures("double")
def test_a_view_moves_the_nodes_beside_its_level_and_no_others():
    r = perturbed(FieldOfExperts(1, 3, 3, MCP, weight=0.5, smoothing=0.1, noise_nodes=4))
    level = LOWEST * (HIGHEST / LOWEST) ** 0.5  # half way between nodes 1 and 2
    names = [name for name, _ in r.named_parameters()]
    by_weights = r.at(level).mixed(images(), images(1))[names.index("log_weights")]
    assert by_weights[[0, 3]].abs().max() == 0
    torch.testing.assert_close(by_weights[1], by_weights[2])
    assert by_weights[1].abs().min() > 0
    before, far = r.at(level).fn(images()), r.at(HIGHEST).fn(images())
    with torch.no_grad():
        r.log_weights[1] += 0.1
    assert (r.at(level).fn(images()) > before).all()
    assert torch.equal(r.at(HIGHEST).fn(images()), far)


def test_a_regularizer_without_nodes_is_the_same_at_every_level():
    for r in (FieldOfExperts(1, 4, 3, MCP, weight=0.05, smoothing=0.005), TotalVariation(1)):
        view = r.at(0.7)
        assert torch.equal(view.fn(images()), r.fn(images()))
        for a, b in zip(view.mixed(images(), images(1)), r.mixed(images(), images(1)), strict=True):
            assert torch.equal(a, b)
        assert r.log_weights.ndim == 3


@pytest.mark.parametrize("level", [0.0, 4 / 255, 51 / 255])
def test_levels_beyond_the_nodes_are_refused(level):
    with pytest.raises(NoiseLevelError, match="from 5/255 to 50/255"):
        TotalVariation(1, noise_nodes=3).at(level)


@pytest.mark.parametrize(("start", "count"), [(0, 5), (7, 20), (1000, 100)])
def test_the_levels_of_any_steps_in_a_row_are_spread_evenly_over_the_range(start, count):
    """The three-gap theorem: for the golden ratio no gap is longer than 2 / n, and the count in a part of the range is
    that of its share up to O(log n)."""
    for seed in range(3):
        levels = NoiseLevels(0.02, 0.2, seed)
        u = sorted(math.log10(levels.at(k) / 0.02) for k in range(start, start + count))
        assert u[0] >= 0
        assert u[-1] < 1
        gaps = [b - a for a, b in zip(u, [*u[1:], 1 + u[0]], strict=True)]
        assert max(gaps) < 2 / count
        assert min(gaps) > 0.3 / count
    assert NoiseLevels(0.02, 0.2, 0).at(3) != NoiseLevels(0.02, 0.2, 1).at(3)


def test_one_level_is_kept_and_weighed_as_it_is():
    levels = NoiseLevels(0.0, 0.0, 0)
    assert (levels.at(5), levels.relative(0.0), levels.weight(0.0), levels.validated) == (0.0, 1.0, 1.0, (0.0,))


def test_validation_covers_the_usual_levels_within_the_range():
    assert NoiseLevels(5 / 255, 50 / 255, 0).validated == (15 / 255, 25 / 255, 50 / 255)
    assert NoiseLevels(0.01, 0.04, 0).validated == pytest.approx((0.02,))


@pytest.mark.usefixtures("double")
def test_the_hypergradient_of_a_weighted_loss_is_the_weighted_hypergradient_at_the_same_cost():
    """Its linear system is solved to the same relative accuracy."""
    clean = images()
    energy = Energy(Identity(), perturbed(TotalVariation(1, weight=0.1)).frozen(), clean + 0.1 * images(1))
    r = perturbed(TotalVariation(1, weight=0.1))
    one, four = (
        hypergradient(r, energy, SquaredError(clean, weight), solve=lbfgs.solve, start=energy.y, accuracy=1e-3)
        for weight in (1.0, 4.0)
    )
    torch.testing.assert_close(four.loss, 4 * one.loss)
    assert torch.equal(four.linear.iterations, one.linear.iterations)
    for a, b in zip(four.gradient, one.gradient, strict=True):
        torch.testing.assert_close(a, 4 * b)


def test_accuracies_are_in_units_of_the_batch():
    clean, r = images(), TotalVariation(1, weight=0.1)
    batch = Batch(r, lambda: Energy(Identity(), r.frozen(), clean + 0.1), SquaredError(clean), (0, 1))
    steps = Descent(direction.plain, step_size=1e-12)
    for accuracy in (0.01, 0.0):  # 0: found at the first step, whatever its level
        method = Isgd(descent=steps, accuracy=accuracy)
        state = method.begin(finite_sum=False)
        asked = [
            method.step(k, replace(batch, tolerance_factor=c), state).accuracy for k, c in enumerate((2.0, 1.0, 3.0))
        ]
        assert asked == pytest.approx([2 * asked[1], asked[1], 3 * asked[1]])


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["problem.noise_level=[0, 0.1]"], "a level above 0 and a higher one"),
        (["problem.noise_level=[0.2, 0.1]"], "a level above 0 and a higher one"),
        ([*RANGE, "data.noise=fixed"], "set data.noise = fresh"),
    ],
)
def test_impossible_levels_are_named(assignments, message):
    with pytest.raises(ConfigError, match=message):
        override(Config(), assignments)


def test_nodes_are_learned_from_a_pair_of_levels():
    with pytest.raises(ConfigError, match=r"set problem.noise_level = \[low, high\]"):
        begin(override(Config(), ["regularizer.noise_nodes=3"]))


def test_one_node_is_too_few():
    with pytest.raises(ConfigError, match="at least 2"):
        build_model(override(Config(), [*RANGE, "regularizer.noise_nodes=1"]))


def test_a_saved_model_comes_back_at_its_level(tmp_path):
    config = override(
        Config(), ["problem.noise_level=[0.1, 0.15]", "regularizer.noise_nodes=3", "regularizer.filters=4"]
    )
    model = build_model(config)
    perturbed(model.regularizer)
    save_model(tmp_path / "a.safetensors", model, config, {})
    loaded, _ = load_model(str(tmp_path / "a.safetensors"))
    assert loaded.regularizer.noise_level == pytest.approx(0.015**0.5)
    assert torch.equal(loaded.regularizer.fn(images()), model.regularizer.fn(images()))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "all"
    config = resolve_experiment("foe-mcp-denoise", [*SMALL[1:-1:2], *ALL[1::2]])[1]
    assert finish(config, folder, folder, True, "") == 0
    return folder


def test_a_run_over_many_levels_and_what_can_be_done_with_it(capsys, tmp_path, run_folder, photograph):
    assert load_file(run_folder / "model.safetensors")["log_weights"].shape == (3, 3, 1, 1)
    printed = []
    for level in ("15/255", "45/255"):
        capsys.readouterr()
        images = ["--images", str(photograph), "--noise-level", level, "--quiet"]
        assert main(["evaluate", str(run_folder), *images]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] != printed[1]
    for kind in ("potentials", "filters"):
        out = str(tmp_path / f"{kind}.png")
        assert main(["figure", kind, str(run_folder), "--out", out, "--noise-level", "40/255"]) == 0
    assert main(["figure", "parameters", str(run_folder), "--out", str(tmp_path / "parameters.png")]) == 0


def test_levels_a_model_does_not_know_are_refused_on_the_command_line(capsys, tmp_path, run_folder):
    beyond = ["--noise-level", "60/255"]
    known = "knows noise levels from 5/255 to 50/255, not 60/255"
    assert known in refused(capsys, "evaluate", run_folder, "--images", "builtin:test", *beyond)
    assert known in refused(capsys, "figure", "potentials", run_folder, "--out", tmp_path / "a.png", *beyond)
    low = ["--set", "problem.noise_level=[2/255, 50/255]"]
    message = refused(capsys, "train", "foe-mcp-denoise", "--out", tmp_path / "a", *SMALL, *ALL, *low)
    assert "not 2/255" in message
