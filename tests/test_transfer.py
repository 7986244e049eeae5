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
from app.models import load_model, read_facts
from tests.test_cli import refused

SMALL = ("regularizer.filters=3", "regularizer.filter_size=3")


@pytest.fixture(scope="module")
def on(tmp_path_factory) -> list[str]:
    """Settings of short runs on small images."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        Image.fromarray(camera()[100 + 20 * i : 140 + 20 * i, 200:248]).save(folder / f"{i}.png")
    settings = (f"data.images={folder}", f"data.validation={folder}/0.png", "run.steps=3", "data.patch_size=32",
                "upper.batch_size=2", "data.validation_crop=32")  # fmt: skip
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
        (*given, "--set", "lower.uncertified=true", "--set", "upper.relative_accuracy=0.1"): "needs certified",
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
