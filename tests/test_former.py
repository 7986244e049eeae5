"""What the program wrote before its settings had keys of their own for each choice can still be read, and goes on."""

import csv
import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from app.cli import main
from app.models.card import read_card
from app.models.files import load_model, shipped
from app.settings.families import CrrOptions, FoeOptions, TvOptions
from app.settings.former import is_former
from app.settings.methods import AmigoOptions, IsgdOptions, MaidOptions
from app.settings.options import Config, Data, Run
from app.settings.tasks import Deblur, Denoise
from app.settings.toml import load, parse, to_toml

FORMER = Path(__file__).parent / "data" / "former"
DATA = {
    "images": "builtin:train", "validation": "builtin:test", "patch_size": 16, "validation_crop": 32, "count": 4
}  # fmt: skip
SHORT = Run(steps=2, validate_every=0)
RUNS = {
    "foe-denoise-isgd": Config(
        data=Data(**DATA),
        regularizer=FoeOptions(filters=4, filter_size=3, boundary="reflect", weight=0.005),
        upper=IsgdOptions(step_size=0.02, batch_size=2),
        run=SHORT,
    ),
    "tv-deblur-maid": Config(
        problem=Deblur(noise_level=2.55 / 255, ridge=1e-3, kernel="gaussian:5:1"),
        data=Data(**{**DATA, "count": 2}, noise="fixed"),
        regularizer=TvOptions(weight=5e-4, smoothing=2e-3),
        upper=MaidOptions(step_size=0.03, accuracy=0.5, memory=3),
        run=SHORT,
    ),
    "crr-denoise-amigo": Config(
        problem=Denoise(),
        data=Data(**DATA, noise="fixed"),
        regularizer=CrrOptions(
            filters=4, hidden_channels=(2,), layer_size=3, boundary="reflect", weight=0.005, smoothing=0.01
        ),
        upper=AmigoOptions(
            step_size=0.02, optimizer="momentum", schedule="polynomial", batch_size=2, lower_steps=3, adjoint_steps=4
        ),
        run=SHORT,
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_former_configuration_says_the_same_by_present_names(name):
    file = FORMER / name / "config.toml"
    values = tomllib.loads(file.read_text())
    assert is_former(values)
    assert sum(map(len, values.values())) == 83
    assert load(file) == RUNS[name]
    assert not is_former(tomllib.loads(to_toml(RUNS[name])))


@pytest.mark.parametrize("name", RUNS)
def test_a_former_model_holds_the_same_weights_and_evaluates(name, photograph):
    model, config = load_model(str(FORMER / name))
    assert config == RUNS[name]
    written = load_file(FORMER / name / "model.safetensors")
    assert model.tensors().keys() == written.keys()
    assert all(torch.equal(model.tensors()[key], written[key]) for key in written)
    assert main(["evaluate", str(FORMER / name), "--images", str(photograph), "--quiet"]) == 0


# The names of a method's tensors in the checkpoint are those of app/upper, which may change them.
@pytest.mark.parametrize("name", RUNS)
def test_a_former_run_goes_on(name, tmp_path, monkeypatch):
    monkeypatch.setattr("app.commands.train.draw_run", lambda *_: [])
    run = Path(shutil.copytree(FORMER / name, tmp_path / name))
    assert main(["resume", str(run), "--quiet", "--set", "run.steps=4"]) == 0
    rows = [row for file in (FORMER / name, run) for row in csv.DictReader((file / "metrics.csv").open())]
    assert [row["step"] for row in rows] == ["1", "2", "1", "2", "3", "4"]
    assert rows[:2] == rows[2:4]
    assert not is_former(tomllib.loads((run / "config.toml").read_text()))


def test_the_budget_of_a_former_run_whose_schedule_counts_steps_is_left_out():
    values = tomllib.loads((FORMER / "foe-denoise-isgd" / "config.toml").read_text())
    values["run"] |= {"budget": 1e4, "steps": 300}
    assert (parse(values).run.budget, parse(values).run.steps) == (0, 300)
    values["upper"]["schedule"] = "constant"
    assert (parse(values).run.budget, parse(values).run.last_step) == (1e4, None)


def test_a_former_range_of_noise_levels_is_a_pair():
    values = tomllib.loads((FORMER / "foe-denoise-isgd" / "config.toml").read_text())
    values["problem"] |= {"noise_low": 0.1, "noise_high": 0.2}
    assert parse(values).problem.noise_level == (0.1, 0.2)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_model_loads(name):
    """Those that were shipped before keys were added have fewer of them."""
    card = read_card(name)
    with safe_open(card.file, framework="pt") as file:
        written = json.loads(file.metadata()["config"])
    assert card.size > 0
    assert card.config.regularizer.name == written["regularizer"]["name"]
    assert card.config.problem.task == written["problem"]["task"]
    assert card.config.problem.level == written["problem"]["noise_level"]


def test_a_module_of_kernels_is_found_by_its_former_name():
    from datasets import blur_kernels, kernels

    assert (kernels.gaussian_kernel, kernels.read_kernel) == (blur_kernels.gaussian_kernel, blur_kernels.read_kernel)
