"""A trained regularizer on other problems, super-resolution and several kernels, through the command line."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from skimage.data import camera

from app.cli import main
from app.models.build import build_model
from app.models.files import load_model, read_facts, save_model
from app.settings.options import Config
from app.settings.toml import override
from app.training.start import begin
from tests.test_cli import refused

SMALL = ("regularizer.filters=3", "regularizer.filter_size=3")


@pytest.fixture(scope="module")
def on(tmp_path_factory) -> list[str]:
    """Settings of short runs on small images."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        Image.fromarray(camera()[100 + 20 * i : 140 + 20 * i, 200:248]).save(folder / f"{i}.png")
    settings = (f"data.images={folder}", f"data.validation={folder}/0.png", "run.steps=3", "data.patch_size=32",
                "upper.batch_size=2", "data.validation_crop=32", "data.count=0")  # fmt: skip
    return ["--quiet", *assigned(*settings)]


def assigned(*settings: str) -> list[str]:
    return [a for s in settings for a in ("--set", s)]


@pytest.fixture(scope="module")
def start(tmp_path_factory, on) -> Path:
    """A trained field of experts."""
    folder = tmp_path_factory.mktemp("runs") / "start"
    assert main(["train", "foe-denoise", "--out", str(folder), *on, *assigned(*SMALL)]) == 0
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def enlarging(tmp_path_factory, on, start) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "superres"
    copy = Path(shutil.copy(start, folder.parent / "gone.safetensors"))
    given = assigned(f"regularizer.start={copy}")
    assert main(["train", "transfer-superres", "--out", str(folder), *on, *given]) == 0
    copy.unlink()
    return folder


def test_a_regularizer_for_many_levels_is_transferred_with_its_level(tmp_path, on, start, capsys):
    levels = assigned("regularizer.noise_nodes=2", "problem.noise_level=[10/255,40/255]")
    assert main(["train", "foe-denoise", "--out", str(tmp_path / "all"), *on, *assigned(*SMALL), *levels]) == 0
    given = assigned(f"regularizer.start={tmp_path / 'all'}", "regularizer.learn=scale_and_level")
    assert main(["train", "transfer-superres", "--out", str(tmp_path / "r"), *on, *given]) == 0
    model, config = load_model(str(tmp_path / "r"))
    learned = {n: float(p) for n, p in model.regularizer.named_parameters()}
    assert learned.keys() == {"log_amplitude", "log_contrast", "raw_level"}
    model.regularizer.put_level(config.problem.level)
    assert learned["raw_level"] != float(model.regularizer.raw_level)
    one = assigned(f"regularizer.start={start}", "regularizer.learn=scale_and_level")
    assert "learned for one noise level" in refused(
        capsys, "train", "transfer-superres", "--out", tmp_path / "n", *on, *one
    )


@pytest.mark.parametrize(("potential", "factor"), [("charbonnier", (10 / 25) ** 2), ("mcp", 1.0)])
def test_a_start_from_another_noise_level_has_weights_of_this_one(tmp_path, potential, factor):
    """R is sigma^2 times a negative log-prior, unless its curvature is budgeted."""
    small = ["regularizer.filters=3", "regularizer.filter_size=3", f"regularizer.potential={potential}"]
    config = override(Config(), [*small, "regularizer.smoothing=0.005"])
    model = build_model(config)
    save_model(tmp_path / "old.safetensors", model, config, {})
    start = [f"regularizer.start={tmp_path / 'old.safetensors'}", "problem.noise_level=10/255"]
    _, begun = begin(override(Config(), start))
    before, now = (m.regularizer.state_dict()["log_weights"].exp() for m in (model, begun))
    torch.testing.assert_close(now, factor * before)


def test_a_rescaled_model_needs_its_start_no_more(enlarging, start):
    model, config = load_model(str(enlarging))
    base, _ = load_model(str(start))
    assert len(list(model.parameters())) == 2
    for name, tensor in base.regularizer.state_dict().items():
        torch.testing.assert_close(model.regularizer.state_dict()[f"base.{name}"], tensor, rtol=0, atol=0)
    assert config.regularizer.filters == 3
    history = safe_open(enlarging / "history.safetensors", framework="pt")
    assert history.get_tensor("amplitude").shape == (4,)
    assert float(history.get_tensor("amplitude")[0]) == pytest.approx((2.55 / 25) ** 2)  # ratio of noise levels
    assert "amplitude" in (enlarging / "log.txt").read_text()


def test_resume_continues_a_rescaled_run(tmp_path, enlarging):
    copy = shutil.copytree(enlarging, tmp_path / "copy")
    assert main(["resume", str(copy), "--quiet", "--set", "run.steps=4"]) == 0
    assert len(list(csv.DictReader((copy / "metrics.csv").open()))) == 4


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["lost", "empty"])
def test_resume_writes_a_lost_model_anew(tmp_path, enlarging, damage):
    """Of a finished run, too, which has no step left to save after."""
    copy = Path(shutil.copytree(enlarging, tmp_path / "copy"))
    damage(copy / "model.safetensors")
    assert main(["resume", str(copy), "--quiet"]) == 0
    (before, _), (after, _) = load_model(str(enlarging)), load_model(str(copy))
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_evaluate_and_reconstruct_enlarge(capsys, tmp_path, enlarging):
    """41 rows and 53 columns are cut to 40 and 52; what was measured of them is enlarged to that again."""
    odd = tmp_path / "odd.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 53), dtype=np.uint8)).save(odd)
    assert main(["evaluate", str(enlarging), "--images", str(odd), "--quiet"]) == 0
    assert "1/1" in capsys.readouterr().out
    assert main(["reconstruct", str(enlarging), str(odd), "--degrade", "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "odd.png").size == (52, 40)
    small = tmp_path / "out" / "odd_degraded.png"
    assert Image.open(small).size == (26, 20)
    assert main(["reconstruct", str(enlarging), str(small), "--out", str(tmp_path / "again")]) == 0
    assert Image.open(tmp_path / "again" / "odd_degraded.png").size == (52, 40)
    figure = [
        "figure",
        "comparison",
        str(enlarging),
        "--images",
        str(odd),
        "--crop",
        "16",
        "--out",
        f"{tmp_path}/a.png",
    ]
    assert main(figure) == 0
    assert main(["report", str(enlarging), "--images", str(odd), "--out", str(tmp_path / "r.html")]) == 0


def test_mistakes_are_one_line(capsys, tmp_path, on, start, enlarging):
    new = ["train", "transfer-superres", "--out", tmp_path / "new", *on]
    given = [*new, "--set", f"regularizer.start={start}"]
    for settings, message in {
        (*new,): "needs a trained model",
        (*new, "--set", "regularizer.start=nothing"): "no model 'nothing'",
        (*given, "--set", "regularizer.filters=7"): "filters = 7, but",
        (*given, "--set", "data.color=true"): "data.color = false: set the same",
        (*given, "--set", "data.patch_size=33"): "multiple of problem.factor = 2",
        (*new, "--set", f"regularizer.start={enlarging}", "--set", "regularizer.learn=all"): "is a rescaled",
        (*given, "--set", "lower.uncertified=true", "--set", "upper.algorithm=jfb"): "is for upper.algorithm = isgd",
        (*given, "--set", "lower.uncertified=true", "--set", "upper.relative_accuracy=0.1"): "relative_accuracy = 0",
    }.items():
        assert message in refused(capsys, *settings)
    assert not (tmp_path / "new").exists()


def test_all_of_a_model_can_be_the_start(tmp_path, on, start):
    """With a step that is too short to be seen."""
    given = assigned(*SMALL, f"regularizer.start={start}", "upper.step_size=1e-9", "run.steps=1")
    assert main(["train", "foe-denoise", "--out", str(tmp_path / "run"), *on, *given]) == 0
    (before, _), (after, _) = load_model(str(start)), load_model(str(tmp_path / "run"))
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture(scope="module")
def refined(tmp_path_factory, on) -> tuple[Path, Path]:
    """A weakly convex model with one learned potential, and what became of it in one step too short to be seen."""
    weak = ("regularizer.potential=weak_spline", "regularizer.weight=0.05", "regularizer.smoothing=0.005")
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "first", folder / "second"
    assert main(["train", "foe-denoise", "--out", str(first), *on, *assigned(*SMALL, *weak)]) == 0
    new = ("filters=3", "filter_size=5", "shared_potential=false", "weak_convexity=0.5", f"start={first}")
    settings = assigned(*weak, *(f"regularizer.{s}" for s in new), "upper.step_size=1e-9", "run.steps=1")
    assert main(["train", "foe-denoise", "--out", str(second), *on, *settings]) == 0
    return first, second


def test_a_start_is_refined(refined):
    """Larger filters, a potential for each and another rho: R of the start, times the ratio of both rho."""
    (before, _), (after, config) = (load_model(str(folder)) for folder in refined)
    options = config.regularizer
    assert (options.filter_size, options.shared_potential, options.weak_convexity) == (5, False, 0.5)
    assert after.regularizer.state_dict()["raw_filters"].shape[-1] == 5
    assert len(after.regularizer.state_dict()["raw_shape"]) == 3
    x = torch.rand(2, 1, 20, 24)
    old, new = before.regularizer.frozen().gradient(x), after.regularizer.frozen().gradient(x)
    torch.testing.assert_close(new, old * 0.5 / 0.95, rtol=1e-3, atol=1e-5)
    weak, weaker = (model.regularizer.frozen().curvature()[0] for model in (before, after))
    assert weaker == pytest.approx(weak * 0.5 / 0.95, rel=1e-3)


def test_what_can_not_be_refined_is_refused(capsys, tmp_path, on, refined):
    same = assigned("regularizer.filters=3", "regularizer.weight=0.05", "regularizer.smoothing=0.005")
    new = ["train", "foe-denoise", "--out", tmp_path / "new", *on, *same, *assigned(f"regularizer.start={refined[1]}")]
    for settings, message in {
        ("filter_size=3",): "filter_size = 3, but",
        ("potential=log",): "potential = 'log', but",
        ("boundary=valid",): "boundary = 'valid', but",
        ("learn=scale", "potential=weak_spline", "weak_convexity=0.9"): "weak_convexity = 0.9, but",
        ("contrast_channels=4", "filter_size=9"): "filter_size = 9, but",
    }.items():
        assert message in refused(capsys, *new, *assigned(*(f"regularizer.{s}" for s in settings)))
    assert not (tmp_path / "new").exists()


def test_smoothings_stay_above_their_bound(capsys, tmp_path, on, start):
    """Those of the start that are above it stay, the others come close to it; a model without it was sharper."""
    (model, _), run = load_model(str(start)), tmp_path / "run"
    before = model.regularizer.frozen().smoothings
    bound = float(before.sort(0).values[1]) * 1.0001  # between them
    settings = (*SMALL, f"regularizer.start={start}", "upper.step_size=1e-9", "run.steps=1")
    assert main(["train", "foe-denoise", "--out", str(run), *on,
                 *assigned(*settings, f"regularizer.least_smoothing={bound}")]) == 0  # fmt: skip
    after = load_model(str(run))[0].regularizer.frozen().smoothings
    assert after.min() > bound
    torch.testing.assert_close(after, before.clamp(min=1.01 * bound), rtol=1e-4, atol=0)
    for bad, message in {"1": "must be below the initial smoothing", "-1": "at least 0"}.items():
        assert message in refused(capsys, "train", "foe-denoise", "--set", f"regularizer.least_smoothing={bad}")
    unread = refused(capsys, "train", "foe-mcp-denoise", "--set", "regularizer.least_smoothing=1e-4")
    assert "any regularizer.potential but mcp and weak_spline" in unread


def test_curvatures_of_mcp_stay_below_their_bound(capsys, tmp_path, on):
    first, second, third = (tmp_path / name for name in "abc")
    assert main(["train", "foe-mcp-denoise", "--out", str(first), *on, *assigned(*SMALL)]) == 0
    before = load_model(str(first))[0].regularizer.frozen()
    ratios = before.weights / before.smoothings
    bound = float(ratios.sort(0).values[-2]) / 1.0001  # between them
    held = ("upper.step_size=1e-9", "run.steps=1", f"regularizer.largest_curvature={bound}")
    for start, run in ((first, second), (second, third)):
        given = assigned(*SMALL, f"regularizer.start={start}", *held)
        assert main(["train", "foe-mcp-denoise", "--out", str(run), *on, *given]) == 0
        after = load_model(str(run))[0].regularizer.frozen()
        torch.testing.assert_close(after.weights / after.smoothings, ratios.clamp(max=bound / 1.01), rtol=1e-3, atol=0)
        assert after.curvature()[1] < before.curvature()[1]
    bad = assigned("regularizer.largest_curvature=5", "regularizer.weight=0.1", "regularizer.smoothing=0.01")
    assert "must be above the initial weight / smoothing = 10" in refused(capsys, "train", "foe-mcp-denoise", *bad)


def test_a_model_tells_the_training_of_its_start(capsys, refined):
    first, second = (read_facts(folder / "model.safetensors") for folder in refined)
    assert first["seconds_before"] == 0
    assert second["seconds_before"] == first["seconds"] > 0
    assert second["commands"][:-1] == first["commands"]
    assert str(refined[0]) in second["commands"][-1]
    assert main(["models", "show", str(refined[1])]) == 0
    assert "for the model it began with" in capsys.readouterr().out


def test_without_certificates_everything_says_so(capsys, tmp_path, on):
    mcp = assigned("regularizer.potential=mcp", "regularizer.weight=0.05", "regularizer.smoothing=0.005", *SMALL)
    run = tmp_path / "run"
    train = ["train", "foe-inpaint", "--out", str(run), *on, *mcp]
    assert "lower.uncertified = true" in refused(capsys, *train)
    assert main([*train, "--set", "lower.uncertified=true"]) == 0
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {r["certified"] for r in rows} == {"0.0"}
    assert {r["error_bound"] for r in rows} == {"inf"}
    assert "not certified" in (run / "log.txt").read_text()
    assert "not certified" in read_facts(run / "model.safetensors")["certified"]


def test_the_kernels_of_levin_take_turns(capsys, tmp_path, on):
    (tmp_path / "kernels").mkdir()
    kernels = {f"k{n}": np.random.default_rng(n).random((3 + n % 3 * 2,) * 2) for n in range(1, 9)}
    np.savez(tmp_path / "kernels" / "Levin09.npz", **kernels)
    root, run, images = ["--data-root", str(tmp_path)], tmp_path / "run", on[2].removeprefix("data.images=")
    assert main(["train", "foe-deblur-levin", "--out", str(run), *on, *assigned(*SMALL), *root]) == 0

    def degraded(kernel: str) -> list[str]:
        out = tmp_path / "rows.csv"
        arguments = ["evaluate", str(run), "--images", images, "--kernel", kernel, "--csv", str(out), "--quiet", *root]
        assert main(arguments) == 0
        return [r["psnr_degraded"] for r in csv.DictReader(out.open())]

    every = degraded("levin:all")
    for i in range(3):
        assert every[i] == degraded(f"levin:{i + 1}")[i]
    measured = ["reconstruct", str(run), f"{images}/0.png", "--out", str(tmp_path / "out"), *root]
    assert "name it with --kernel" in refused(capsys, *measured)
    assert main([*measured, "--kernel", "levin:3"]) == 0
