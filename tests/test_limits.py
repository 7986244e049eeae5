"""Numbers that no machine or nobody means are refused in one line, before memory is asked for."""

import pytest

from tests.test_cli import SMALL, refused

BIG, DEEP = "1" * 400, "[" * 5000

KEYS = """
problem.noise_level problem.ridge regularizer.weight regularizer.smoothing regularizer.filters regularizer.filter_size
regularizer.noise_nodes regularizer.contrast_channels data.patch_size data.count data.validation_crop upper.batch_size
upper.step_size upper.accuracy lower.final_accuracy lower.max_iterations run.steps run.budget run.seed run.average
""".split()  # noqa: SIM905


VALUES = [BIG, "1" * 5000, "-" + BIG, "1e300", "nan", "-inf", DEEP, DEEP + "]" * 5000, "{a=1}"]


@pytest.mark.parametrize("value", VALUES)
def test_no_number_is_too_long_too_large_or_too_deep_to_be_refused(capsys, value):
    for key in KEYS:
        line = refused(capsys, "train", "foe-denoise", "--set", f"{key}={value}")
        assert key in line
        assert len(line) < 300


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("upper.batch_size=1000000", 4096), ("regularizer.filter_size=1000000001", 63),
        ("regularizer.filters=1e5", None), ("regularizer.filters=1000000", 1024),
        ("regularizer.noise_nodes=1000000000", 100),
        ("regularizer.contrast_channels=100000", 1024), ("data.patch_size=1000000", 8192),
    ],
)  # fmt: skip
def test_sizes_beyond_all_use_are_refused_with_their_limit(capsys, setting, limit):
    line = refused(capsys, "train", "foe-denoise", "--set", setting)
    assert f"at most {limit}" in line if limit else "whole number" in line


@pytest.mark.parametrize(
    "text",
    [
        f"[run]\nsteps = {DEEP}", f"[run]\nsteps = {'1' * 5000}", f"[run]\nsteps = {DEEP}{']' * 5000}",
        f"variant = {DEEP}{']' * 5000}", "[[variant]]\nname = 5", "variant = ['a']",
        "[[variant]]\nname = 'a'\nset = [1]",
        "seeds = ['a']\n[[variant]]\nname = 'a'", "seeds = [true]\n[[variant]]\nname = 'a'",
        "claims = [['a']]\n[[variant]]\nname = 'a'", "claims = [[1, 2]]\n[[variant]]\nname = 'a'",
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train", "compare"])
def test_files_of_settings_that_hold_anything_are_refused_in_one_line(capsys, tmp_path, command, text):
    (tmp_path / "odd.toml").write_text(text)
    assert len(refused(capsys, command, tmp_path / "odd.toml")) < 600


@pytest.mark.parametrize(
    "options",
    [
        ["--dpi", "1000000"], ["--dpi", "0"], ["--dpi", "1" * 5000], ["--fps", "nan"], ["--fps", "1e-9"],
        ["--fps", "inf"], ["--out", "~nosuch/a.gif"],
    ],
)  # fmt: skip
def test_options_of_figures_have_limits(capsys, options):
    line = refused(capsys, "figure", "animation", "tv-denoise-grey-25", "--out", "a.gif", *options)
    assert options[0] in line
    assert len(line) < 200


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "~nosuch/run", "--images", "builtin:test"],
        ["evaluate", "tv-denoise-grey-25", "--images", "~nosuch/a"],
        ["reconstruct", "tv-deblur-grey-gaussian", "builtin:test", "--out", "o", "--degrade",
         "--kernel", "~nosuch/k.png"],
        ["train", "foe-denoise", "--set", "regularizer.start=~nosuch/r"],
        ["compare", "~nosuch/r"], ["resume", "~nosuch/r"],
        ["figure", "curves", "~nosuch/r", "--out", "a.png"], ["report", "~nosuch/r"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_the_home_of_nobody_is_a_place_without_files(capsys, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "~nosuch" in refused(capsys, *command)
    assert not list(tmp_path.iterdir())


def test_a_step_that_does_not_fit_into_memory_is_refused_before_it_begins(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("app.training.setup.usable_memory", lambda: 2.0**20)
    line = refused(capsys, "train", "foe-denoise", *SMALL, "--set", "upper.batch_size=99", "--out", tmp_path / "r")
    assert "a step on 99 patches of 16 x 16 pixels needs" in line
    assert not (tmp_path / "r").exists()
