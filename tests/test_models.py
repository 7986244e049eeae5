"""Models by name, what their files say, and how one becomes a shipped one."""

import csv
import json
import math
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from app.cli import main, resolve_experiment
from app.commands import train
from app.evaluation.assess import without_folders
from app.evaluation.evaluate import Evaluation
from app.evaluation.tables import csv_table, latex_table, markdown_table, summary_table
from app.models import files as models
from app.models.build import build_model
from app.models.card import blur_text, full_name, read_card
from app.models.catalogue import aligned, describe, duration, overview
from app.models.files import find_model, read_facts, save_model, shipped
from app.models.sealed import SEALS
from app.settings.options import Config
from app.settings.toml import override
from tests.test_cli import refused
from tests.test_history import TINY


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A run folder with the model of an untrained field of experts."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    _, config = resolve_experiment("foe-denoise", ["regularizer.filters=3", "regularizer.filter_size=3"])
    save_model(folder / "model.safetensors", build_model(config), config, {})
    return folder


def test_shipped_models_are_called_what_they_are():
    assert shipped()
    for name in shipped():
        card = read_card(name)
        levels = sorted({a.noise_level for a in card.assessments}) or [card.config.problem.level]
        kernels = [a.kernel for a in card.assessments] or [blur_text(card.config.problem)]
        # A second model for the same measurements has a word more.
        assert card.name == name
        assert f"{name}-".startswith(full_name(card.config, levels, kernels) + "-")
        assert all(t.dtype == torch.float32 for t in load_file(card.file).values())
        assert without_folders(card.config, card.facts) == (card.config, card.facts)


def test_the_size_of_a_model_holds_what_stays_as_it_is():
    transfer, base = read_card("transfer-mri-grey-4x"), read_card("foe-denoise-grey-25")
    assert (transfer.learned, transfer.size) == (2, base.size + 2)
    adaptive, plain = read_card("adaptive-foe-mcp-denoise-grey-25"), read_card("foe-mcp-denoise-grey-25")
    assert adaptive.size > adaptive.learned, "the guide"
    assert plain.size == plain.learned
    assert "2 of them learned last" in describe(transfer)


def test_every_command_takes_a_shipped_model_by_its_name(tmp_path, photograph):
    name, images = next(iter(shipped())), ["--images", str(photograph)]
    assert main(["evaluate", name, *images, "--quiet"]) == 0
    assert main(["reconstruct", name, str(photograph), "--out", str(tmp_path / "out")]) == 0
    for kind, more in (("filters", []), ("comparison", images)):
        assert main(["figure", kind, name, *more, "--out", str(tmp_path / f"{kind}.png"), "--dpi", "40"]) == 0
    assert main(["models", "show", name]) == 0


def test_an_unknown_model_is_answered_with_the_shipped_ones(capsys, tmp_path, photograph):
    out = ["--out", tmp_path / "a.png"]
    for arguments in (
        ["evaluate", "foe", "--images", photograph], ["reconstruct", "foe", photograph, "--out", tmp_path / "out"],
        ["figure", "filters", "foe", *out], ["models", "show", "foe"], ["models", "ship", "foe"],
    ):  # fmt: skip
        line = refused(capsys, *arguments)
        assert "no model 'foe'" in line
        assert all(name in line for name in shipped())


def test_a_folder_or_file_comes_before_a_shipped_name(tmp_path, monkeypatch, tiny_model):
    name = next(iter(shipped()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert find_model(name) == shipped()[name], "a folder that holds no model is not meant"
    shutil.copy(tiny_model / "model.safetensors", tmp_path / name)
    assert find_model(name).resolve().parent == tmp_path / name


def test_a_run_records_how_it_was_made_and_resuming_adds_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "draw_run", lambda *_: [])
    out = tmp_path / "my run"
    typed = ["train", "foe-denoise", "--out", str(out), *TINY, "--set", "run.steps=2"]
    monkeypatch.setattr(sys, "argv", ["app", *typed])
    assert main() == 0
    before = read_facts(out / "model.safetensors")
    assert main(["resume", str(out), "--quiet", "--set", "run.steps=4"]) == 0
    after = read_facts(out / "model.safetensors")
    assert before["commands"] == [shlex.join(["python", "-m", "app", *typed])]
    assert after["commands"] == [*before["commands"], f"python -m app resume '{out}' --quiet --set run.steps=4"]
    assert len(after["hardware"]) == 1
    assert " thread" in after["hardware"][0] or torch.cuda.is_available()
    assert after["seconds"] > before["seconds"] > 0
    assert (before["step"], after["step"]) == (2, 4)
    assert len(after["date"].split("-")) == 3
    assert set(after["versions"]) == {"torch", "deepinv", "bilevel-regularizers"}


def test_files_that_say_less_give_a_shorter_card(capsys, tmp_path, tiny_model, photograph):
    with safe_open(tiny_model / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    bare = tmp_path / "bare.safetensors"
    for facts in ({}, {"facts": json.dumps({"step": 3, "seconds": 244.5, "versions": {"torch": "2.6"}})}):
        kept = {k: v for k, v in metadata.items() if k not in ("facts", *SEALS)}
        save_file(load_file(tiny_model / "model.safetensors"), bare, kept | facts)
        assert main(["evaluate", str(bare), "--images", str(photograph), "--quiet"]) == 0
        assert main(["models", "show", str(bare)]) == 0
        assert overview([read_card(str(bare))]).splitlines()[1].startswith("bare   25/255")
    text = capsys.readouterr().out
    assert "not recorded" in text
    assert "4.1 min, 3 steps" in text
    assert "not assessed yet" in text


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty place for shipped models."""
    monkeypatch.setattr(models, "PRETRAINED", tmp_path / "shelf")
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def test_a_run_becomes_a_shipped_model_that_knows_what_it_can(capsys, tmp_path, shelf, photograph):
    run = tmp_path / "run"
    run.mkdir()
    small = ["regularizer.filters=3", "regularizer.filter_size=3", "run.precision=float64"]
    _, config = resolve_experiment("foe-mcp-denoise", [*small, f"data.images={tmp_path}/mine"])
    facts = {"commands": [f"python -m app train mcp --set data.images={tmp_path}/mine --out {run}"], "seconds": 12.3}
    save_model(run / "model.safetensors", build_model(config).to(torch.device("cpu"), torch.float64), config, facts)
    for name in "ab":
        (tmp_path / "set").mkdir(exist_ok=True)
        shutil.copy(photograph, tmp_path / "set" / f"{name}.png")
    ship = ["models", "ship", str(run), "--images", str(tmp_path / "set"), "--quiet"]
    assert main([*ship, "--noise-levels", "15/255", "25/255"]) == 0
    assert [p.name for p in shelf.iterdir()] == ["foe-mcp-denoise-grey-all.safetensors"]
    card = read_card("foe-mcp-denoise-grey-all")
    assert [a.noise_level * 255 for a in card.assessments] == pytest.approx([15, 25])
    assert {t.dtype for t in load_file(card.file).values()} == {torch.float32}
    assert card.facts["seconds"] == 12.3
    assert card.facts["commands"] == ["python -m app train mcp --set data.images=mine --out run"]
    assert str(tmp_path).encode() not in card.file.read_bytes(), "no folder of this machine is given away"

    rows = tmp_path / "rows.csv"
    again = ["--images", str(tmp_path / "set"), "--noise-level", "15/255", "--csv", str(rows), "--quiet"]
    assert main(["evaluate", card.name, *again]) == 0
    values = [float(r["psnr"]) for r in csv.DictReader(rows.open())][:2]
    first = card.assessments[0]
    assert first.psnr == pytest.approx(fmean(values), abs=1e-4)
    assert first.psnr_error == pytest.approx(stdev(values) / 2**0.5, rel=1e-3)
    assert (first.certified, first.count) == (2, 2)
    assert first.mu == pytest.approx(0.05, abs=1e-4)
    assert first.mu < 1 < first.largest

    assert "exists already" in refused(capsys, *ship, "--noise-levels", "15/255", "25/255")
    assert main(["models", "ship", card.name, "--images", str(photograph), "--name", card.name, "--quiet"]) == 0
    assert len(read_card(card.name).assessments) == 1, "assessed again, in place"


def test_tables_of_models_fit_a_terminal(capsys):
    assert main(["models", "list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in shipped())
    assert max(map(len, text.splitlines())) <= 128


@pytest.mark.parametrize(
    ("settings", "levels", "kernels", "name"),
    [
        (["regularizer.name=tv"], [25 / 255], ["gaussian"], "tv-denoise-grey-25"),
        (["regularizer.potential=huber"], [2.55 / 255], ["gaussian"], "foe-huber-denoise-grey-2.55"),
        (["data.color=true"], [0.1, 0.2], ["gaussian"], "foe-denoise-color-all"),
        (["problem.task=deblur"], [0.01], ["levin:1", "levin:2"], "foe-deblur-grey-levin"),
        (["problem.task=deblur"], [0.01], ["a/motion.png"], "foe-deblur-grey-motion"),
    ],
)
def test_names_say_what_a_model_is_for(settings, levels, kernels, name):
    assert full_name(override(Config(), settings), levels, kernels) == name


def test_columns_are_aligned_and_durations_short():
    assert aligned([("a", "bcd"), ("ab", "c")], left=1) == "a   bcd\nab    c"
    assert [duration(s) for s in (13.4, 244.5, 7200)] == ["13 s", "4.1 min", "2.0 h"]


def evaluation(psnr: float) -> Evaluation:
    return Evaluation(
        image=f"{psnr}", psnr=psnr, ssim=0.8, psnr_degraded=20.0, ssim_degraded=0.4, error_bound=0.09, converged=True,
        iterations=40, seconds=0.5, relative_bound=0.00123456, parameters=72,
    )  # fmt: skip


def test_tables_tell_the_standard_error_of_the_mean_psnr():
    """stdev / sqrt(n): 1, 3, 5 -> 3 +- 2 / sqrt(3)."""
    rows = [evaluation(p) for p in (1.0, 3.0, 5.0)]
    table = summary_table({"foe": rows})
    assert "3.00 ± 1.15" in table
    assert "± SE: standard error of the mean PSNR over the 3 images" in table
    assert r"foe & $3.00 \pm 1.15$ & 0.8000 & 3/3 & 72 \\" in latex_table({"foe": rows})
    assert "| foe | 3.00 ± 1.15 | 0.8000 | 3/3 | 0.13 % | 40 | 0.50 | 72 |" in markdown_table({"foe": rows})
    assert "| degraded | 20.00 ± 0.00 | 0.4000 |  |  |  |  |  |" in markdown_table({"foe": rows})
    stationary = [replace(row, error_bound=math.inf, relative_bound=math.inf, converged=False) for row in rows]
    assert "| 0/3 | stationary |" in markdown_table({"foe": stationary})
    assert "±" not in summary_table({"foe": rows[:1]})
    assert csv_table(rows).splitlines()[-1].startswith("mean,3.0,0.8")


@pytest.mark.parametrize(
    "facts",
    [
        "no JSON", "[1]", "null", "[" * 5000, '{"step": "many"}', '{"step": 1e400}', '{"seconds": "long"}',
        f'{{"seconds": {"1" * 400}}}', '{"versions": [1]}', '{"commands": 5}', '{"hardware": [null]}', '{"date": {}}',
        '{"evaluations": {"psnr": 1}}', '{"evaluations": [{"images": "a"}]}', '{"evaluations": [3]}',
    ],
)  # fmt: skip
def test_facts_of_another_kind_than_the_program_writes_are_refused(capsys, tmp_path, tiny_model, facts):
    with safe_open(tiny_model / "model.safetensors", framework="pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k not in SEALS} | {"facts": facts}
    save_file(load_file(tiny_model / "model.safetensors"), tmp_path / "odd.safetensors", metadata)
    assert "odd.safetensors: " in refused(capsys, "models", "show", tmp_path / "odd.safetensors")


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_model_with_numbers_that_are_none_is_refused_by_the_name_of_its_tensor(capsys, tmp_path, tiny_model, number):
    tensors, file = load_file(tiny_model / "model.safetensors"), tmp_path / "odd.safetensors"
    with safe_open(tiny_model / "model.safetensors", framework="pt") as whole:
        metadata = {k: v for k, v in whole.metadata().items() if k not in SEALS}
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = number
    save_file(tensors, file, metadata)
    assert name in refused(capsys, "models", "show", file)
    with pytest.raises(models.ModelError, match=name):
        models.load_regularizer(file)
