"""Every mistake through the real command line: one line on stderr, exit code 2, no traceback, nothing overwritten."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from app.cli import main
from tests.conftest import ROOT

RUNS_DRAW = True
SMALL = [
    "--set", "data.images=builtin:train", "--set", "data.validation=builtin:test", "--set", "run.steps=3",
    "--set", "data.patch_size=16", "--set", "upper.batch_size=2", "--set", "regularizer.filters=3",
    "--set", "regularizer.filter_size=3", "--set", "data.validation_crop=32", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A finished run of a tiny field of experts."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "foe-denoise", "--out", str(folder), *SMALL]) == 0
    return folder


def refused(capsys, *arguments: str) -> str:
    """The one line on stderr of a command that must fail."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_run_leaves_what_it_promises(run_folder):
    names = {p.name for p in run_folder.iterdir()}
    assert names == {
        "config.toml", "metrics.csv", "model.safetensors", "checkpoint", "curves.png", "filters.png",
        "reconstruction.png", "reconstruction.pdf", "log.txt", "history.safetensors",
    }  # fmt: skip
    rows = list(csv.DictReader((run_folder / "metrics.csv").open()))
    assert [r["step"] for r in rows] == ["1", "2", "3"]
    assert all(float(r["certified"]) == 1 for r in rows)
    assert float(rows[-1]["validation_psnr"]) > 15


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["trian"], 2),
        (["train", "foe-denois"], 2),
        (["train", "foe-denoise", "--set", "run.stepz=1"], 2),
    ],
)
def test_help_and_typing_errors_answer_before_torch_is_imported(arguments, code):
    program = f"""
import sys
from app.cli import main
try:
    code = main({arguments!r})
except SystemExit as exit:
    code = exit.code
assert not {{"torch", "deepinv", "matplotlib", "numpy"}} & set(sys.modules)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_ends_with_its_exit_code_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "app", "resume", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [f"error: {tmp_path} is not a run folder (no config.toml)"]


def test_unknown_names_are_refused(capsys, tmp_path, run_folder, photograph):
    out = ["--out", str(tmp_path / "new")]
    assert "tv-denoise" in refused(capsys, "train", "tv-denois", *out)
    assert "unknown key upper.stepsize" in refused(capsys, "train", "tv-denoise", *out, "--set", "upper.stepsize=1")
    assert "allowed are" in refused(capsys, "train", "tv-denoise", *out, "--set", "problem.task=sharpen")
    assert "allowed are tv, foe" in refused(capsys, "train", "tv-denoise", *out, "--set", "regularizer.name=x")
    assert "unknown image set" in refused(capsys, "train", "tv-denoise", *out, "--set", "data.images=bsds")
    assert "unknown split" in refused(capsys, "train", "tv-denoise", *out, "--set", "data.images=builtin:x")
    assert "no model" in refused(capsys, "evaluate", "nothing", "--images", "builtin")
    assert "allowed are denoise" in refused(capsys, "evaluate", run_folder, "--images", photograph, "--task", "sharpen")
    assert not (tmp_path / "new").exists()


def test_names_of_a_variable_that_is_not_set_are_not_the_folder_one_is_in(
    capsys, tmp_path, monkeypatch, run_folder, photograph
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(photograph, tmp_path)
    for arguments in (
        ["reconstruct", run_folder, photograph, "--out", ""],
        ["reconstruct", run_folder, "", "--out", "o"],
        ["reconstruct", run_folder, photograph, "--task", "inpaint", "--mask", "", "--out", "o"],
        ["evaluate", run_folder, "--images", ""],
        ["train", "foe-denoise", *SMALL, "--out", ""],
        ["train", "foe-denoise", *SMALL, "--set", "data.images=", "--out", "o"],
    ):
        refused(capsys, *arguments)
    assert [p.name for p in tmp_path.iterdir()] == [photograph.name]


def test_wrong_values_are_refused(capsys, tmp_path, run_folder):
    out = ["--out", str(tmp_path / "new")]
    for assignment, message in {
        "problem.noise_level=-0.1": "must be at least 0",
        "regularizer.filter_size=4": "must be odd",
        "run.steps=ten": "must be a whole number",
        "run.device=tpu": "allowed are auto, cpu, cuda",
        "data.patch_size=700": "smaller than data.patch_size",
        "regularizer.filters=5000": "at most",
    }.items():
        arguments = ["train", "foe-denoise", *SMALL, *out, "--set", assignment]
        assert message in refused(capsys, *arguments)
    toml = tmp_path / "mine.toml"
    for text, message in {
        "[run]\nsteps = 'a'": "whole number",
        "[run": "not valid TOML",
        "steps = 3": "section",
    }.items():
        toml.write_text(text)
        assert message in refused(capsys, "train", toml, *out)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none(capsys, tmp_path, run_folder, photograph):
    line = refused(capsys, "train", "foe-denoise", *SMALL, "--out", tmp_path / "new", "--set", "run.device=cuda")
    assert "has 0 CUDA devices" in line
    assert "CUDA" in refused(capsys, "evaluate", run_folder, "--images", photograph, "--set", "run.device=cuda:1")


def test_bad_image_folders(capsys, tmp_path, run_folder, photograph):
    assert "no image folder" in refused(capsys, "evaluate", run_folder, "--images", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no images in" in refused(capsys, "evaluate", run_folder, "--images", tmp_path / "empty")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i in range(3):
        shutil.copy(photograph, mixed / f"{i}.png")
    (mixed / "1.png").write_bytes(photograph.read_bytes()[:500])
    train = ["train", "foe-denoise", *SMALL, "--out", str(tmp_path / "new"), "--set", f"data.images={mixed}"]
    assert "1.png is not a readable image" in refused(capsys, *train)
    csv_file = tmp_path / "rows.csv"
    csv_file.write_text("precious")
    assert "1.png" in refused(capsys, "evaluate", run_folder, "--images", mixed, "--csv", csv_file, "--quiet")
    assert csv_file.read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_colour_models_refuse_grey_images(capsys, tmp_path, photograph):
    folder = tmp_path / "colour"
    colour = [*SMALL, "--set", "data.color=true", "--set", "run.steps=1"]
    assert main(["train", "foe-denoise", *colour, "--out", str(folder)]) == 0
    assert "is grey" in refused(capsys, "evaluate", folder, "--images", photograph, "--quiet")
    assert "is grey" in refused(capsys, "reconstruct", folder, photograph, "--out", tmp_path / "out")
    grey = [*colour, "--out", str(tmp_path / "new"), "--set", f"data.images={photograph}"]
    assert "is grey" in refused(capsys, "train", "foe-denoise", *grey)


def test_damaged_and_foreign_models(capsys, tmp_path, run_folder, photograph):
    model = run_folder / "model.safetensors"
    cut, text, foreign, other = (tmp_path / f"{n}.safetensors" for n in ("cut", "text", "foreign", "other"))
    cut.write_bytes(model.read_bytes()[:-100])
    text.write_text("not a model, however long the text may be")
    save_file({"a": torch.zeros(2)}, foreign)
    from safetensors import safe_open

    with safe_open(model, framework="pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    config["regularizer"]["filters"] = 4
    save_file(load_file(model), other, metadata | {"config": json.dumps(config)})
    for file, message in {
        cut: "not a whole",
        text: "not a whole",
        foreign: "not a model",
        other: "architecture",
    }.items():
        assert message in refused(capsys, "evaluate", file, "--images", photograph, "--quiet")
        assert message in refused(capsys, "reconstruct", file, photograph, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(capsys, tmp_path, run_folder, photograph):
    before = {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    assert "already holds a run" in refused(capsys, "train", "foe-denoise", *SMALL, "--out", run_folder)
    assert {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()} == before
    assert main(["reconstruct", str(run_folder), str(photograph), "--out", str(tmp_path / "out")]) == 0
    assert "would be overwritten" in refused(capsys, "reconstruct", run_folder, photograph, "--out", tmp_path / "out")
    twice = refused(capsys, "reconstruct", run_folder, photograph, photograph, "--out", tmp_path / "two")
    assert "would be overwritten" in twice


def test_resume_needs_a_run_with_a_checkpoint(capsys, tmp_path, run_folder):
    assert "not a run folder" in refused(capsys, "resume", tmp_path)
    copy = shutil.copytree(run_folder, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoint")
    assert "no checkpoint" in refused(capsys, "resume", copy)
    (copy / "checkpoint").mkdir()
    (copy / "checkpoint" / "state.safetensors").write_bytes(b"12345678 broken")
    assert "damaged" in refused(capsys, "resume", copy)


def test_folders_that_cannot_be_written(capsys, tmp_path, run_folder, photograph):
    (tmp_path / "file").write_text("in the way")
    assert "file" in refused(capsys, "train", "foe-denoise", *SMALL, "--out", tmp_path / "file" / "run")
    csv_file = tmp_path / "file" / "rows.csv"
    assert "rows.csv" in refused(capsys, "evaluate", run_folder, "--images", photograph, "--csv", csv_file)


def test_folders_without_write_permission(capsys, tmp_path, monkeypatch):
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write everywhere: let the system call answer as it would to others

        def refuse(path, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
    line = refused(capsys, "train", "foe-denoise", *SMALL, "--out", sealed / "run")
    assert "Permission denied" in line
    assert "sealed" in line


def test_an_energy_without_strong_convexity_is_refused(capsys, tmp_path, run_folder, photograph):
    mcp = [
        "--set",
        "regularizer.potential=mcp",
        "--set",
        "regularizer.smoothing=0.001",
        "--set",
        "problem.task=inpaint",
    ]
    assert "mu = -0.95" in refused(capsys, "train", "foe-denoise", *SMALL, *mcp, "--out", tmp_path / "new")


def test_what_cannot_be_certified_is_reconstructed_and_said_to_be_so(capsys, tmp_path, run_folder, photograph):
    """Half of the pixels are missing and nothing else holds them: mu = 0."""
    inpaint = ["--task", "inpaint", "--set", "problem.ridge=0"]
    assert main(["evaluate", str(run_folder), "--images", str(photograph), *inpaint, "--quiet"]) == 0
    table = capsys.readouterr().out
    assert " 0/1 " in table
    assert table.splitlines()[-1] == f"{run_folder}: not certified: the energy is not provably strongly convex"
    out = str(tmp_path / "out")
    assert main(["reconstruct", str(run_folder), str(photograph), *inpaint, "--degrade", "--out", out]) == 0
    assert "<= inf" in capsys.readouterr().out


def test_inpainting_without_a_mask_is_refused(capsys, tmp_path, run_folder, photograph):
    arguments = ["reconstruct", run_folder, photograph, "--task", "inpaint", "--set", "problem.ridge=0.1"]
    assert "--mask FILE" in refused(capsys, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_of_different_measurements_share_no_table(capsys, tmp_path, run_folder, photograph):
    other = tmp_path / "other"
    assert main(["train", "foe-denoise", "--out", str(other), *SMALL, "--set", "problem.noise_level=0.2"]) == 0
    both = [run_folder, other, "--images", photograph]
    assert "different measurements" in refused(capsys, "evaluate", *both, "--quiet")
    assert "different measurements" in refused(capsys, "figure", "comparison", *both, "--out", tmp_path / "a.png")
    assert main(["evaluate", *map(str, both), "--noise-level", "0.1", "--quiet"]) == 0


def test_images_smaller_than_the_filters_are_refused(capsys, tmp_path, run_folder):
    Image.fromarray(np.zeros((2, 9), np.uint8)).save(tmp_path / "small.png")
    line = refused(capsys, "reconstruct", run_folder, tmp_path / "small.png", "--out", tmp_path / "out")
    assert "9 x 2 are too small for 3 x 3 filters" in line


def test_evaluate_writes_one_row_per_image_and_the_mean(capsys, tmp_path, run_folder, photograph):
    for i in range(2):
        shutil.copy(photograph, tmp_path / f"{i}.png")
    rows, table = tmp_path / "out" / "rows.csv", tmp_path / "out" / "table.tex"
    rows.parent.mkdir()
    arguments = ["evaluate", str(run_folder), "--images", str(tmp_path), "--csv", str(rows), "--latex", str(table)]
    assert main([*arguments, "--markdown", str(tmp_path / "table.md"), "--quiet"]) == 0
    assert "2/2" in capsys.readouterr().out
    read = list(csv.DictReader(rows.open()))
    assert [r["image"] for r in read] == ["0.png", "1.png", "mean"]
    assert list(read[0]) == [
        "image", "psnr", "ssim", "psnr_degraded", "error_bound", "relative_bound", "iterations", "seconds", "lpips",
        "parameters", "training",
    ]  # fmt: skip
    mean = (float(read[0]["psnr"]) + float(read[1]["psnr"])) / 2
    assert float(read[2]["psnr"]) == pytest.approx(mean)
    assert float(read[2]["error_bound"]) <= 0.1
    assert read[0]["psnr_degraded"] != read[1]["psnr_degraded"], "each image has its own noise"
    metrics = list(csv.DictReader((run_folder / "metrics.csv").open()))
    assert float(read[0]["training"]) == pytest.approx(float(metrics[-1]["seconds"]), abs=0.01)
    assert r"\toprule" in table.read_text()
    assert "| 2/2 | 0." in (tmp_path / "table.md").read_text()
    assert main([*arguments, "--count", "1", "--quiet"]) == 0
    first, _ = csv.DictReader(rows.open())
    assert first["psnr"] == read[0]["psnr"], "the first images of a set have the noise that they have in all of it"
    assert "--count: must be a number from 1" in refused(capsys, *arguments, "--count", "0")


@pytest.mark.parametrize("task", [["denoise"], ["deblur"], ["inpaint"], ["deblur", "--kernel", "KERNEL"]])
def test_reconstruct_on_every_task(tmp_path, run_folder, photograph, task):
    np.savez(tmp_path / "k.npz", motion=np.eye(5))
    task = [a.replace("KERNEL", f"{tmp_path}/k.npz:motion") for a in task]
    arguments = ["reconstruct", str(run_folder), str(photograph), "--out", str(tmp_path / "out"), "--task", *task]
    assert main([*arguments, "--degrade", "--set", "problem.ridge=0.01"]) == 0
    result = Image.open(tmp_path / "out" / "photograph.png")
    assert result.size == (48, 40)
    assert (tmp_path / "out" / "photograph_degraded.png").exists()
