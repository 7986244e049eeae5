"""Fields of experts with contrasts: derivatives, bounds, and the way from a guide by training to a reconstruction."""

# ruff: noqa: F811 (fixtures)

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.physics import Denoising
from PIL import Image
from skimage.data import camera

from app import assemble
from app.cli import PRESETS, main
from app.evaluation.guide import ACCURACY, lower_problem
from app.evaluation.simulation import simulation
from app.lower import lbfgs
from app.lower.energy import Energy
from app.models.build import Model
from app.models.files import load_model
from app.problem.losses import SquaredError
from app.problem.problem import Problem, Sample
from app.problem.tasks import denoising
from app.settings.toml import load
from app.training.fit import batch_of, fit
from app.training.fit import hypergradient as hypergradient_of
from app.training.start import begin
from app.upper.hypergradient import hypergradient
from app.upper.methods import unroll
from app.upper.methods.gd_polyak import GdPolyak
from app.upper.methods.hoag import Hoag
from app.upper.methods.isgd import Isgd
from app.upper.methods.maid import Maid
from regularizers import CHARBONNIER, MCP, WEAK_SPLINE, Adaptive, AutogradFunctional, FieldOfExperts, for_channels
from tests.problems import Identity, dense_hessian, perturbed
from tests.test_cli import refused
from tests.test_transfer import SMALL, assigned, on  # noqa: F401  (a fixture)

CASES = [
    (CHARBONNIER, "valid", 1, "unet"), (MCP, "circular", 3, "dilated"), (MCP, "reflect", 1, "unet"),
    (WEAK_SPLINE, "circular", 1, "dilated"),
]  # fmt: skip
cases = pytest.mark.parametrize(("potential", "boundary", "channels", "network"), CASES)
networks = pytest.mark.parametrize("network", ["dilated", "unet"])


def adaptive(
    potential, boundary: str, channels: int, network: str = "dilated", batch: int = 2, nodes: int = 0
) -> Adaptive:
    """Given a random image, with contrasts on both sides of 1, and masks."""
    base = perturbed(FieldOfExperts(
        channels, 4, 3, potential, boundary=boundary, weak_convexity=0.8, weight=0.6, smoothing=0.2, noise_nodes=nodes
    ))  # fmt: skip
    r = perturbed(Adaptive(base, 5, network, masks=True).double(), 1)
    r = r.conditioned_on(0.1 * images(batch, channels, seed=3))
    f = r.frozen()
    assert f.contrasts.min() < 0.9 < 1.1 < f.contrasts.max()
    assert 0 < f.masks.min() < f.masks.max() - 0.03 < 0.97
    return r


def images(batch: int, channels: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, 8, 8, generator=generator, dtype=torch.float64)


@cases
def test_closed_forms_are_derivatives(potential, boundary, channels, network):
    r, x, q = adaptive(potential, boundary, channels, network), images(2, channels), images(2, channels, seed=2)
    f, reference = r.frozen(), AutogradFunctional.of(r)
    torch.testing.assert_close(f.gradient(x), reference.gradient(x).detach())
    torch.testing.assert_close(f.hessian(x)(q), reference.hessian(x)(q))
    for a, b in zip((*r.mixed(x, q), *r.slopes(x)), (*reference.mixed(x, q), *reference.slopes(x)), strict=True):
        torch.testing.assert_close(a, b)


@cases
@pytest.mark.parametrize("condition", [0.1, 1e9])
def test_bounds_are_those_of_the_base_and_hold(potential, boundary, channels, network, condition):
    """Whatever the network says, its extremes included."""
    r = adaptive(potential, boundary, channels, network, batch=1)
    r = r.conditioned_on(condition * images(1, channels, seed=3))
    rho, largest = r.frozen().curvature()
    assert (rho, largest) == r.base.frozen().curvature()
    for scale in (0.0, 0.3, 3.0):
        eigenvalues = torch.linalg.eigvalsh(dense_hessian(r.frozen(), scale * images(1, channels)))
        assert eigenvalues[0] >= -rho - 1e-10
        assert eigenvalues[-1] <= largest + 1e-10


def test_contrasts_of_one_are_the_base_and_those_of_c_are_rescaled():
    """R(c x) / c^2 for a constant contrast c."""
    f, x = adaptive(MCP, "circular", 1).base.frozen(), images(2, 1)
    c = replace(f, contrasts=torch.full((2, 4, 8, 8), 1.7, dtype=torch.float64))
    torch.testing.assert_close(c.value(x), f.value(1.7 * x) / 1.7**2)
    untrained = Adaptive(adaptive(MCP, "circular", 1).base, 5).double().conditioned_on(x)
    torch.testing.assert_close(untrained.grad(x), f.gradient(x))


@networks
def test_contrasts_and_masks_stay_in_their_range(network):
    r = adaptive(MCP, "circular", 1, network)
    f = r.conditioned_on(1e9 * images(2, 1)).frozen()
    assert f.contrasts.log().abs().max() == pytest.approx(math.log(r.network.largest))
    assert 0 <= f.masks.min() < 1e-6
    assert f.masks.max() == pytest.approx(1)


def test_a_mask_is_the_share_of_a_response_in_the_energy():
    f, x = adaptive(MCP, "circular", 1).base.frozen(), images(2, 1)
    half = replace(f, masks=torch.full((2, 4, 8, 8), 0.5, dtype=torch.float64))
    torch.testing.assert_close(half.value(x), f.value(x) / 2)
    torch.testing.assert_close(half.gradient(x), f.gradient(x) / 2)


@networks
@pytest.mark.parametrize("size", [(61, 40), (64, 37), (3, 5)])
def test_contrasts_of_a_large_image_have_no_seams(monkeypatch, network, size):
    r, z = adaptive(MCP, "circular", 1, network), torch.rand(2, 1, *size, dtype=torch.float64)
    whole = r.network(z, 0.1)
    for rows in (61, 30, 7, 1):
        monkeypatch.setattr("regularizers.foe.contrast_networks.STRIP", 8 * rows * 2 * 5 * size[1])
        with torch.no_grad():
            torch.testing.assert_close(r.network(z, 0.1), whole)


def test_layers_of_a_large_image_are_small(monkeypatch):
    """All but those at the lowest resolution, which are as large as few images."""
    unet, seen = adaptive(MCP, "circular", 1, "unet").network, []
    for part in unet.modules():
        part.register_forward_hook(lambda part, given, found: seen.append(found.numel()))
    monkeypatch.setattr("regularizers.foe.contrast_networks.STRIP", 8 * 5 * 40 * 32)
    with torch.no_grad():
        unet.rows(torch.rand(1, 1, 2048, 32, dtype=torch.float64), 0.1)(512, 552)
    assert max(seen) < 2048 * 32


def test_a_unet_knows_the_noise_level():
    r, z = adaptive(MCP, "circular", 1, "unet", nodes=3), 0.1 * images(1, 1)
    same = [r.at(level).conditioned_on(level * z).frozen().contrasts for level in (0.05, 0.1)]
    assert not torch.allclose(*same)


@cases
def test_the_gradient_that_certifies_holds_few_contrasts_at_a_time(monkeypatch, potential, boundary, channels, network):
    r, x = adaptive(potential, boundary, channels, network), images(2, channels)
    whole = r.frozen().gradient(x)
    for rows in (5, 1):
        monkeypatch.setattr("regularizers.foe.contrast_networks.STRIP", 8 * rows * 2 * 5 * 8)
        exact = r.promoted().frozen()
        torch.testing.assert_close(exact.gradient(x), whole, rtol=1e-13, atol=1e-14)
        assert "whole" not in vars(exact)
    torch.testing.assert_close(exact.hessian(x)(x), r.frozen().hessian(x)(x))


def test_an_image_has_its_own_contrasts_wherever_it_is_in_a_batch():
    r, y = adaptive(MCP, "circular", 1), images(2, 1)
    energy, second = Energy(Identity(), r.frozen(), y), torch.tensor([1])
    torch.testing.assert_close(energy.take(second).gradient(y[1:]), energy.gradient(y)[1:])
    alone = r.conditioned_on(0.1 * images(2, 1, seed=3)[1:]).frozen()
    torch.testing.assert_close(lbfgs.solve(Energy(Identity(), alone, y[1:]), y[1:], 1e-8).x,
                               lbfgs.solve(energy, y, 1e-8).x[1:], atol=1e-7, rtol=0)  # fmt: skip


def test_hypergradient_of_a_network_against_central_differences():
    """Every parameter but those of the guide, which has none to learn."""
    clean = images(2, 1)
    y = clean + 0.3 * images(2, 1, seed=4)
    operator = denoising(torch.device("cpu"))(clean.shape[1:], (0, 1))
    r = adaptive(CHARBONNIER, "valid", 1, "unet")

    def loss() -> float:
        lower = lower_problem(r, operator, y, 0.0, lbfgs.solve)
        assert lower.guided is not None
        assert lower.guided.converged.all()
        h = replace(lower.energy(), guess=None)
        return float(SquaredError(clean).value(lbfgs.solve(h, h.start, 1e-11).x).mean())

    lower = lower_problem(r, operator, y, 0.0, lbfgs.solve)
    h = replace(lower.energy(), guess=None)
    z = hypergradient(lower.regularizer, h, SquaredError(clean), lbfgs.solve, h.start, accuracy=1e-11)
    learned = dict(r.named_parameters())
    found = dict(zip(learned, z.gradient, strict=True))
    draw = torch.Generator().manual_seed(5)
    directions = {name: torch.randn(p.shape, generator=draw, dtype=p.dtype) for name, p in learned.items()}
    for part in ("base.", "network."):
        names, expected, step = [name for name in learned if name.startswith(part)], 0.0, 1e-6
        for sign in (1, -1):
            before = [learned[name].detach().clone() for name in names]
            with torch.no_grad():
                for name in names:
                    learned[name].add_(directions[name], alpha=sign * step)
                expected += sign * loss() / (2 * step)
                for name, kept in zip(names, before, strict=True):
                    learned[name].copy_(kept)
        slope = sum(float((found[name] * directions[name]).sum()) for name in names)
        assert slope == pytest.approx(expected, rel=1e-4), part
    assert not any(name.startswith("guide") for name in found)


@pytest.fixture
def tight(monkeypatch):
    """Links of a chain as accurate as the last one."""
    monkeypatch.setattr("app.evaluation.guide.ACCURACY", 1e-12)
    monkeypatch.setattr("app.training.chain.ACCURACY", 1e-12)


def chained(
    network: str, updates: int, learn_guide: bool, channels: int = 1, nodes: int = 0
) -> tuple[Adaptive, Sample]:
    """A regularizer of a chain, and what it is to reconstruct."""
    base = perturbed(FieldOfExperts(
        1, 4, 3, CHARBONNIER, boundary="valid", weight=0.6, smoothing=0.2, noise_nodes=nodes
    ))  # fmt: skip
    r = perturbed(Adaptive(base, 5, network, updates=updates, learn_guide=learn_guide).double(), 1)
    clean = images(2, channels)
    y = clean + 0.3 * images(2, channels, seed=4)
    operator = denoising(torch.device("cpu"))(clean.shape[1:], (0, 1))
    return r, Sample(
        y=y, target=clean, operator=operator, loss=SquaredError(clean), images=(0, 1), noise_level=0.1,
        tolerance_factor=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "updates", "learn_guide", "channels", "nodes"),
    [("unet", 3, False, 1, 3), ("dilated", 2, True, 2, 0)],
)
@pytest.mark.usefixtures("tight")
def test_hypergradient_through_a_chain_against_central_differences(network, updates, learn_guide, channels, nodes):
    r, sample = chained(network, updates, learn_guide, channels, nodes)

    def loss() -> float:
        lower = lower_problem(
            for_channels(r.at(sample.noise_level), channels), sample.operator, sample.y, 0.0, lbfgs.solve
        )
        return float(sample.loss.value(lbfgs.solve(lower.energy(), lower.energy().start, 1e-11).x).mean())

    batch = batch_of(Model(r), sample, 0.0, lbfgs.solve, through_guide=True)
    h, spent = batch.energy(), batch.spent.computations
    z = hypergradient(batch.learned, h, sample.loss, lbfgs.solve, h.start, accuracy=1e-11)
    assert batch.spent.computations > spent, "the linear systems of the links count"
    cheap = batch_of(Model(r), sample, 0.0, lbfgs.solve)
    stopped = hypergradient(cheap.learned, h, sample.loss, lbfgs.solve, h.start, accuracy=1e-11)
    parts: dict[str, list[tuple[torch.Tensor, ...]]] = {}
    for (name, p), *slopes in zip(r.named_parameters(), z.gradient, stopped.gradient, strict=True):
        direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(5), dtype=p.dtype)
        parts.setdefault(name.split(".")[0], []).append((p, direction, *slopes))
    assert sorted(parts) == ["base", *["guide"] * learn_guide, "network"]
    missed = []
    for name, part in parts.items():
        expected, step = 0.0, 1e-6
        for sign in (1, -1):
            before = [p.detach().clone() for p, *_ in part]
            with torch.no_grad():
                for p, direction, *_ in part:
                    p.add_(direction, alpha=sign * step)
                expected += sign * loss() / (2 * step)
                for (p, *_), old in zip(part, before, strict=True):
                    p.copy_(old)
        exact, given = (sum(float((t[i] * t[1]).sum()) for t in part) for i in (2, 3))
        assert exact == pytest.approx(expected, rel=1e-5, abs=1e-7), name
        missed += [name] if given != pytest.approx(expected, rel=1e-3) else []
    assert missed, "the derivative without what comes through z is another one"


@pytest.mark.parametrize(
    "method", [Isgd(batch_size=2, through_guide=True), *(m(through_guide=True) for m in (Maid, Hoag, GdPolyak))],
    ids=lambda method: type(method).__name__,
)  # fmt: skip
def test_methods_learn_a_guide(method):
    r, _ = chained("dilated", 1, True)
    before = {name: p.detach().clone() for name, p in r.named_parameters()}
    problem = Problem(Denoising(), clean=images(2, 1), noise_level=0.3, dtype=torch.float64)
    first, *_, last = fit(r, problem, method, steps=4)
    assert last.loss.mean() < first.loss.mean()
    assert not any(torch.equal(before[name], p) for name, p in r.named_parameters())
    z = hypergradient_of(r, problem, through_guide=True)
    assert all(bool(g.any()) for g in z.gradient)


def test_what_a_chain_is_conditioned_on_follows_theta_and_its_cost_counts():
    r, sample = chained("dilated", 2, True)
    for through in (False, True):
        batch = batch_of(Model(r), sample, 0.0, lbfgs.solve, through)
        first, spent = batch.energy().guess, batch.spent.computations
        assert torch.equal(batch.energy().guess, first)
        assert batch.spent.computations == spent
        with torch.no_grad():
            r.guide.log_weights += 0.1
        assert torch.equal(batch.energy().guess, first) != through
        assert (batch.spent.computations > spent) == through


def test_every_link_counts_and_must_be_certified():
    r, sample = chained("dilated", 3, False)
    last = lower_problem(r, sample.operator, sample.y, 0.0, lbfgs.solve)
    links = [last]
    while links[0].before is not None:
        links.insert(0, links[0].before)
    assert [link.guided is None for link in links] == [True, False, False, False]
    starts = [link.energy() for link in links[:-1]]
    found = [lbfgs.solve(h, h.start, ACCURACY * 8) for h in starts]
    for link, z in zip(links[1:], found, strict=True):
        assert torch.equal(link.guided.x, z.x)
        assert torch.equal(link.energy().functional.contrasts, r.conditioned_on(z.x).frozen().contrasts)
    assert torch.equal(last.guided.iterations, sum(z.iterations for z in found))
    failing = replace(last, guided=replace(last.guided, converged=torch.tensor([True, False])))
    assert failing.solve(lbfgs.solve, 0.1).converged.tolist() == [True, False]


def test_unrolled_iterations_of_a_batch_against_central_differences():
    r, sample = chained("dilated", 1, False)
    batch = batch_of(Model(r), sample, 0.0, lbfgs.solve)
    end = unroll.forward(batch.energy(), sample.y, 6, 6)
    found = unroll.backward(batch.learned, batch.energy(), end, sample.loss.gradient(end.x))
    bias, step, losses = r.network.last_bias, 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            bias += sign * step
            losses.append(float(sample.loss.value(unroll.forward(batch.energy(), sample.y, 6, 6).x).mean()))
            bias -= sign * step
    place = [p is bias for p in r.parameters()].index(True)
    assert float(found[place].sum()) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, on):
    """A guide, and what was trained with it."""
    folder = tmp_path_factory.mktemp("runs")
    guide, run = folder / "guide", folder / "run"
    assert main(["train", "foe-mcp-denoise", "--out", str(guide), *on, *assigned(*SMALL)]) == 0
    given = assigned(f"regularizer.start={guide}", "regularizer.contrast_channels=4")
    assert main(["train", "foe-mcp-denoise", "--out", str(run), *on, *given, *assigned(*SMALL)]) == 0
    return guide, run


def test_the_guide_stays_as_it_was_and_all_else_moves(runs):
    (guide, _), (model, config) = load_model(str(runs[0])), load_model(str(runs[1]))
    state = model.regularizer.state_dict()
    for name, tensor in guide.regularizer.state_dict().items():
        assert torch.equal(state[f"guide.{name}"], tensor)
        assert not torch.equal(state[f"base.{name}"], tensor)
    assert state["network.last"].abs().max() > 0
    assert (config.regularizer.contrast_channels, config.regularizer.filters) == (4, 3)


@pytest.fixture
def photograph(tmp_path) -> Path:
    file = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(camera()[200:241, 100:153])).save(file)
    return file


def test_it_needs_its_guides_file_no_more_and_all_commands_take_it(capsys, tmp_path, runs, photograph):
    run, image = str(runs[1]), ["--images", str(photograph)]
    assert main(["evaluate", run, *image, "--quiet"]) == 0
    assert "1/1" in capsys.readouterr().out
    assert main(["reconstruct", run, str(photograph), "--degrade", "--out", str(tmp_path / "out")]) == 0
    assert main(["report", run, *image, "--out", str(tmp_path / "r.html")]) == 0
    assert main(["figure", "comparison", run, *image, "--crop", "16", "--out", str(tmp_path / "c.png")]) == 0
    assert main(["figure", "filters", run, "--out", str(tmp_path / "f.png")]) == 0
    assert main(["figure", "contrasts", run, *image, "--out", str(tmp_path / "g.png")]) == 0
    assert main(["resume", run, "--quiet", "--set", "run.steps=4"]) == 0


def test_a_guide_and_a_chain_are_trained_together_and_all_commands_take_them(capsys, tmp_path, runs, on, photograph):
    joint, image = str(tmp_path / "joint"), ["--images", str(photograph)]
    chain = (f"regularizer.start={runs[1]}", "regularizer.contrast_channels=4", "regularizer.updates=2")
    learned = assigned(*SMALL, *chain, "regularizer.learn_guide=true", "upper.through_guide=true")
    assert main(["train", "foe-mcp-denoise", "--out", joint, *on, *learned]) == 0
    before, (model, config) = load_model(str(runs[1]))[0].regularizer.state_dict(), load_model(joint)
    moved = [name for name, t in model.regularizer.state_dict().items() if not torch.equal(before[name], t)]
    assert [p for p in ("base.", "guide.", "network.") if not any(name.startswith(p) for name in moved)] == []
    assert (config.regularizer.updates, config.regularizer.learn_guide) == (2, True)
    assert main(["evaluate", joint, *image, "--quiet"]) == 0
    assert "certified given the result of update 1" in capsys.readouterr().out
    assert main(["reconstruct", joint, str(photograph), "--degrade", "--out", str(tmp_path / "out")]) == 0
    assert "given the result of update 1, " in capsys.readouterr().out
    assert main(["figure", "contrasts", joint, *image, "--out", str(tmp_path / "g.png")]) == 0
    assert main(["resume", joint, "--quiet", "--set", "run.steps=4"]) == 0


def test_a_trained_network_may_begin_to_find_masks(capsys, tmp_path, runs, on, photograph):
    masked, image = str(tmp_path / "masked"), ["--images", str(photograph)]
    given = assigned(
        *SMALL, f"regularizer.start={runs[1]}", "regularizer.contrast_channels=4", "regularizer.masks=true"
    )
    _, begun = begin(load(PRESETS / "foe-mcp-denoise.toml", given[1::2]))
    before = load_model(str(runs[1]))[0].regularizer
    last, wider = before.network.last, begun.regularizer.network.last
    assert torch.equal(wider, torch.cat([last, torch.zeros_like(last)]))
    assert main(["train", "foe-mcp-denoise", "--out", masked, *on, *given]) == 0
    assert main(["evaluate", masked, *image, "--quiet"]) == 0
    assert "1/1" in capsys.readouterr().out
    assert main(["figure", "contrasts", masked, *image, "--out", str(tmp_path / "g.png")]) == 0
    assert main(["check", masked]) == 0


def test_both_solves_count_and_both_must_be_certified(tmp_path, monkeypatch, runs, photograph):
    model, config = assemble.load(str(runs[1]), ["run.device=cpu", "lower.max_iterations=60"])
    reconstruct = simulation(config, model, tmp_path)
    y = reconstruct.measure(reconstruct.read(photograph, False), (0,))
    solution, energy = reconstruct(y, (0,)), reconstruct.problem(y, (0,)).energy()
    second = reconstruct.solver(energy, energy.start, reconstruct.accuracy)
    guide = replace(energy, functional=model.regularizer.guide.frozen(), guess=None)
    first = reconstruct.solver(guide, guide.start, ACCURACY * y.numel() ** 0.5)
    assert bool(solution.converged)
    assert solution.iterations == first.iterations + second.iterations
    torch.testing.assert_close(energy.start, first.x)
    monkeypatch.setattr("app.evaluation.guide.ACCURACY", 1e-12)  # not to be had in float32
    assert not bool(reconstruct(y, (0,)).converged), "the second solve alone would be certified"


def test_mistakes_are_one_line(capsys, tmp_path, runs, on, photograph):
    drawn = ["--images", str(photograph), "--out", str(tmp_path / "g.png")]
    assert "no contrasts" in refused(capsys, "figure", "contrasts", str(runs[0]), *drawn)
    assert "has a guide" in refused(capsys, "figure", "convergence", str(runs[1]), *drawn)

    def message(preset: str, *settings: str) -> str:
        return refused(capsys, "train", preset, "--out", tmp_path / "new", *on, *assigned(*settings))

    guide, run, channels = *(f"regularizer.start={r}" for r in runs), "regularizer.contrast_channels=4"
    mcp, scale = "foe-mcp-denoise", "regularizer.learn=scale"
    assert "needs a trained model as guide" in message(mcp, channels)
    assert "is not for regularizer.contrast_channels" in message(
        mcp, channels, "upper.relative_accuracy=0.1", "upper.relative_error=proven"
    )
    assert "belongs to one scale" in message(mcp, *SMALL, channels, guide, scale)
    assert "leave it out" in message(mcp, *SMALL, run, "regularizer.contrast_channels=5")
    assert "cannot be rescaled" in message("transfer-deblur", run)
    assert "needs upper.through_guide" in message(mcp, channels, "regularizer.learn_guide=true")
    assert "upper.through_guide = true is not read here" in message(mcp, channels, "upper.through_guide=true")
    deep = (channels, "regularizer.learn_guide=true", "upper.through_guide=true")
    assert "through_guide" in message(mcp, "upper.algorithm=jfb", *deep)
    assert not (tmp_path / "new").exists()
