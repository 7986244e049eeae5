"""Nothing of the user's is lost, and what was not said is not assumed in silence."""

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from safetensors.torch import load_file
from skimage.data import camera

from app.cli import main
from datasets.blur_kernels import kernel_notes
from datasets.encode import encode_like
from datasets.images import read_picture
from tests.conftest import ROOT
from tests.test_cli import refused

MODEL = "tv-denoise-grey-25"
RUN = [
    "--quiet", "--set", "data.images=builtin:train", "--set", "data.validation=builtin:test", "--set",
    "data.patch_size=24", "--set", "data.validation_crop=24", "--set", "upper.batch_size=2", "--set", "run.device=cpu",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A folder with one photograph."""
    (tmp_path / "clean").mkdir()
    Image.fromarray(np.ascontiguousarray(camera()[200:240, 100:148])).save(tmp_path / "clean" / "a.png")
    return tmp_path


# Files that are inputs


@pytest.mark.parametrize(
    "command",
    [
        ["figure", "comparison", MODEL, "--images", "{image}", "--out", "{image}"],
        ["evaluate", MODEL, "--images", "{image}", "--csv", "{image}"],
        ["evaluate", MODEL, "--images", "{clean}", "--latex", "{image}"],
        ["report", "{run}", "--out", "{image}"],
    ],
)
def test_no_result_replaces_what_it_is_made_of(capsys, folder, command):
    image, run = folder / "clean" / "a.png", folder / "run"
    run.mkdir()
    for name in ("config.toml", "metrics.csv", "model.safetensors"):
        (run / name).touch()
    before = image.read_bytes()
    words = [w.format(image=image, clean=image.parent, run=run) for w in command]
    told = refused(capsys, *words)
    assert "an input would be overwritten" in told or "a report is .html" in told
    assert image.read_bytes() == before


def test_two_results_do_not_share_a_file(capsys, folder):
    out = folder / "table.txt"
    told = refused(
        capsys, "evaluate", MODEL, "--images", folder / "clean", "--latex", out, "--markdown", out, "--quiet"
    )
    assert "two results would go to one file" in told and not out.exists()


@pytest.mark.parametrize("name", ["metrics.csv", "log.txt", "photograph.JPG"])
def test_a_run_does_not_move_in_where_others_live(capsys, tmp_path, name):
    (tmp_path / name).write_text("mine")
    told = refused(capsys, "train", "tv-denoise", *RUN, "--out", tmp_path)
    assert f"holds {name} of somebody else" in told
    assert (tmp_path / name).read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {name}


# What nobody said


def test_a_noise_level_may_be_typed_with_spaces(capsys, folder):
    image, outs = str(folder / "clean" / "a.png"), [folder / "a", folder / "b"]
    for out, setting in zip(outs, ("problem.noise_level=10/255", "problem.noise_level = 10/255"), strict=True):
        assert main(["reconstruct", "foe-mcp-denoise-grey-all", image, "--set", setting, "--out", str(out)]) == 0
        assert "estimated:" not in capsys.readouterr().out
    assert (outs[0] / "a.png").read_bytes() == (outs[1] / "a.png").read_bytes()


def test_a_setting_is_not_given_in_two_ways(capsys, folder):
    both = ["--noise-level", "25/255", "--set", "problem.noise_level=10/255"]
    told = refused(capsys, "reconstruct", MODEL, folder / "clean" / "a.png", *both, "--out", folder / "out")
    assert "problem.noise_level is given twice: by --noise-level and by --set" in told


def test_a_kernel_that_nobody_named_is_told(capsys, folder):
    image, model = str(folder / "clean" / "a.png"), "tv-deblur-grey-gaussian"
    assert main(["reconstruct", model, image, "--out", str(folder / "a")]) == 0
    assert "kernel gaussian:9:1.5 of the model is assumed (--kernel)" in capsys.readouterr().out
    assert main(["reconstruct", model, image, "--kernel", "gaussian:9:1.5", "--out", str(folder / "b")]) == 0
    assert main(["reconstruct", model, image, "--degrade", "--out", str(folder / "c")]) == 0
    assert "assumed" not in capsys.readouterr().out


def test_clean_images_that_are_taken_for_measured_ones_are_told(capsys, folder):
    both = ["--images", str(folder / "clean"), "--measured", str(folder / "clean")]
    assert main(["evaluate", MODEL, *both, "--quiet"]) == 0
    assert "what was measured of 1 images is the clean image itself" in capsys.readouterr().out


def test_a_kernel_on_a_background_is_told(tmp_path):
    y, x = np.mgrid[-7:8, -7:8]
    line = ((abs(y - x // 2) < 1) & (abs(x) < 5)) * 255.0
    blob, box = 255 * np.exp(-(x**2 + y**2) / 50), np.full((5, 5), 255.0)
    for name, kernel, told in (
        ("line", line, False), ("inverted", 255 - line, True), ("grey", np.maximum(line, 20), True),
        ("cut off", blob, False), ("box", box, False), ("row", np.full((1, 9), 255.0), False),
    ):  # fmt: skip
        file = tmp_path / f"{name}.png"
        Image.fromarray(kernel.astype(np.uint8)).save(file)
        assert any("its border is not 0" in note for note in kernel_notes(str(file), tmp_path)) == told, name


def test_a_text_is_no_kernel(capsys, folder):
    (folder / "k.txt").write_text("0 1 0")
    image = folder / "clean" / "a.png"
    told = refused(
        capsys, "reconstruct", "tv-deblur-grey-gaussian", image, "--kernel", folder / "k.txt", "--out", folder
    )
    assert "k.txt is no kernel: arrays are .npy" in told
    assert "levin:1 ... levin:8" in refused(
        capsys, "reconstruct", "tv-deblur-grey-gaussian", image, "--kernel", "levin:9", "--out", folder
    )


def test_twelve_bits_in_a_file_of_sixteen_are_told(capsys, folder):
    for name, scale, told in (("twelve", 4095, True), ("sixteen", 65535, False)):
        file = folder / f"{name}.png"
        Image.fromarray((camera()[200:240, 100:148] / 255 * scale).astype(np.uint16)).save(file)
        assert main(["reconstruct", MODEL, str(file), "--out", str(folder / name)]) == 0
        assert ("of fewer bits in a file of 16" in capsys.readouterr().err) == told


def test_tables_hold_methods_on_the_same_measurements(capsys, folder):
    files = [folder / "a.csv", folder / "b.csv"]
    for file, level in zip(files, ("25/255", "50/255"), strict=True):
        words = ["--images", str(folder / "clean"), "--noise-level", level, "--csv", str(file), "--quiet"]
        assert main(["evaluate", MODEL, *words]) == 0
    told = refused(capsys, "figure", "table", *files, "--out", folder / "t.md")
    assert "a and b began with different measurements of" in told
    joined = folder / "joined.csv"
    joined.write_text(files[0].read_text() + "".join(files[0].read_text().splitlines(True)[1:]))
    assert "holds several evaluations" in refused(capsys, "figure", "table", joined, "--out", folder / "t.md")
    head, row, mean = files[0].read_text().splitlines()
    psnr = row.split(",")[1]
    (folder / "nan.csv").write_text(f"{head}\n{row.replace(psnr, 'nan', 1)}\n{mean}\n")
    assert "is no number" in refused(capsys, "figure", "table", folder / "nan.csv", "--out", folder / "t.md")


def test_the_best_parameters_of_another_problem_are_forgotten(tmp_path):
    """Less noise has the better held-out PSNR, which more noise never reaches."""
    run = str(tmp_path / "run")
    keeping = ["--set", "run.keep_best=true", "--set", "run.validate_every=1"]
    assert main(["train", "tv-denoise", *RUN, *keeping, "--set", "run.steps=2", "--out", run]) == 0
    before = load_file(tmp_path / "run" / "model.safetensors")
    assert main(["resume", run, "--quiet", "--set", "run.steps=6", "--set", "problem.noise_level=0.3"]) == 0
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert not torch.equal(after["log_weights"], before["log_weights"])


def test_the_best_parameters_stay_where_nothing_else_is_judged(tmp_path):
    """Steps far too long do not improve on the best, and another cache size does not forget it."""
    run = str(tmp_path / "run")
    keeping = ["--set", "run.keep_best=true", "--set", "run.validate_every=1"]
    assert main(["train", "tv-denoise", *RUN, *keeping, "--set", "run.steps=2", "--out", run]) == 0
    before = load_file(tmp_path / "run" / "model.safetensors")
    wild = ["--set", "upper.step_size=3", "--set", "data.memory=7", "--set", "run.steps=4"]
    assert main(["resume", run, "--quiet", *wild]) == 0
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)


# The environment


def test_signs_that_a_terminal_has_not_end_no_work(folder):
    own = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    shutil.copy(folder / "clean" / "a.png", folder / "clean" / "b.png")
    words = [sys.executable, "-m", "app", "evaluate", MODEL, "--images", str(folder / "clean"), "--quiet"]
    done = subprocess.run(words, env=own, capture_output=True, text=True)
    assert done.returncode == 0 and r"\xb1 SE" in done.stdout and "Traceback" not in done.stderr


def test_files_are_written_before_anybody_is_told_who_may_have_gone(folder, monkeypatch):
    def gone(*args, **kwargs):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("app.commands.evaluate.print", gone, raising=False)
    files = [folder / f"rows.{suffix}" for suffix in ("csv", "tex", "md")]
    outputs = [
        w for name, file in zip(("csv", "latex", "markdown"), files, strict=True) for w in (f"--{name}", str(file))
    ]
    assert main(["evaluate", MODEL, "--images", str(folder / "clean"), "--quiet", *outputs]) == 2
    assert all(file.stat().st_size for file in files)


def test_another_package_called_datasets_is_told_in_one_line(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    own = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "app", "--help"], env=own, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stderr.startswith("error: the package `datasets`")
    assert done.stderr.count("\n") == 1


# Colours


@pytest.mark.parametrize("depth", [8, 16])
def test_colours_keep_their_profile(tmp_path, depth):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    picture = read_picture(tmp_path / "a.png", True)
    written = encode_like(replace(picture, depth=depth), picture.image)
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["icc_profile"] == profile
        image.load()
    assert read_picture(tmp_path / "a.png", False).profile == b"", "grey numbers are none of these colours"


def test_a_mistake_is_told_in_one_line_of_a_length_that_can_be_read(capsys, tmp_path):
    for key in ("run.device", "data.images", "problem.kernel", "upper.schedule"):
        told = refused(capsys, "train", "tv-deblur", "--set", f"{key}={'x' * 5000}", "--out", tmp_path / "run")
        assert len(told) < 2000 and told.count("\n") == 0, key
