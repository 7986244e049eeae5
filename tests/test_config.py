"""Configurations survive TOML, and every mistake names its key, value and what is allowed."""

import inspect
import tomllib
from typing import get_args, get_type_hints

import pytest

from app.cli import PRESETS
from app.settings.options import Config, ConfigError, RegularizerOptions
from app.settings.toml import load, override, parse, to_toml
from regularizers import BOUNDARIES, POTENTIALS, FieldOfExperts, TotalVariation


def test_toml_round_trip():
    config = override(Config(), ["problem.noise_level=15/255", "data.images='a \"b\" \\ c'", "run.steps=3"])
    assert config.problem.noise_level == 15 / 255
    assert parse(tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.toml")), ids=lambda p: p.stem)
def test_presets_are_valid_and_complete_when_saved(preset):
    config = load(preset)
    kind, *rest = preset.stem.split("-")
    r = config.regularizer
    assert kind == ("transfer" if r.learn == "scale" else "adaptive" if r.contrast_channels else r.name)
    assert config.problem.task in rest or (config.problem.learn_kernel and rest == ["semi", "blind"])
    assert (rest[-1] == "all") == (config.problem.noise_low > 0)
    assert parse(tomllib.loads(to_toml(config))) == config


def test_later_assignments_win():
    assert override(Config(), ["run.steps=3", "run.steps=4"]).run.steps == 4


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("problem.noise_level=-0.1", "problem.noise_level = -0.1 must be at least 0"),
        ("problem.noise_level=nan", "must be a number"),
        ("problem.noise_level=25/0", "must be a number"),
        ("regularizer.filter_size=6", "must be odd"),
        ("regularizer.name=tvv", "allowed are tv, foe"),
        ("problem.task=sharpen", "allowed are denoise, deblur, inpaint"),
        ("run.steps=1.5", "must be a whole number"),
        ("run.steps=true", "must be a whole number"),
        ("data.color=1", "must be true or false"),
        ("data.images=3", "must be a text"),
        ("run.stepz=3", "unknown key run.stepz"),
        ("runs.steps=3", "unknown section"),
        ("run.steps", "--set takes section.key=value"),
        ("regularizer.weak_convexity=1.0", "must be below 1"),
        ("regularizer.hidden_channels=4", "regularizer.hidden_channels = 4 must be a list such as [4, 8]"),
        ("regularizer.hidden_channels=[4, 0]", "must be at least 1"),
        ("regularizer.hidden_channels=[4, 1.5]", "must be a whole number"),
    ],
)
def test_mistakes_are_named(assignment, message):
    with pytest.raises(ConfigError) as error:
        override(Config(), [assignment])
    assert message in str(error.value)


def test_the_defaults_and_choices_are_those_of_the_regularizers():
    for constructor in (TotalVariation, FieldOfExperts):
        for name, parameter in inspect.signature(constructor).parameters.items():
            if name not in ("channels", "hidden_channels"):  # grey or colour; none for foe, some for crr and wcrr
                assert getattr(RegularizerOptions(), name) == parameter.default
    hints = get_type_hints(RegularizerOptions)
    assert set(get_args(hints["potential"])) == set(POTENTIALS)
    assert get_args(hints["boundary"]) == BOUNDARIES


def test_mcp_needs_a_smoothing_below_its_weight():
    with pytest.raises(ConfigError, match="below weight"):
        override(Config(), ["regularizer.weight=0.01", "regularizer.smoothing=0.02", "regularizer.potential=mcp"])
