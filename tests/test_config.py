"""Configurations survive TOML, and every mistake names its key, value and what is allowed."""

import inspect
import tomllib
from typing import get_args, get_type_hints

import pytest

from app.cli import PRESETS, resolve_experiment
from app.settings.families import (
    BUDGETED,
    FAMILIES,
    CrrOptions,
    FoeOptions,
    IcnnOptions,
    TvOptions,
    WcrrOptions,
)
from app.settings.methods import IsgdOptions, MaidOptions, MehaOptions
from app.settings.options import Config, ConfigError
from app.settings.tasks import Deblur
from app.settings.toml import load, override, parse, to_toml
from regularizers import BOUNDARIES, POTENTIALS, FieldOfExperts, InputConvexNetwork, TotalVariation


def test_toml_round_trip():
    config = override(Config(), ["problem.noise_level=15/255", "data.images='a \"b\" \\ c'", "run.steps=3"])
    assert config.problem.noise_level == 15 / 255
    assert parse(tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.toml")), ids=lambda p: p.stem)
def test_presets_are_valid_and_complete_when_saved(preset):
    config = load(preset)
    kind, *rest = preset.stem.split("-")
    r = config.regularizer
    family = "mfoe" if getattr(r, "group_size", 1) > 1 else r.name
    assert kind == ("transfer" if r.learn != "all" else "adaptive" if r.contrasts else family)
    assert config.problem.task in rest or (config.problem.learns_kernel and rest == ["semi", "blind"])
    assert (rest[-1] == "all") == isinstance(config.problem.noise_level, tuple)
    assert parse(tomllib.loads(to_toml(config))) == config


def test_later_assignments_win():
    assert override(Config(), ["run.steps=3", "run.steps=4"]).run.steps == 4


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("problem.noise_level=[0.1, 0.2, 0.3]", "must be one value or a pair"),
        ("problem.noise_level=[0.2, 0.1]", "must be a level above 0 and a higher one"),
        ("problem.noise_level=[5/255, x]", "must be a number, or a fraction"),
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
        ("regularizer.name=wcrr regularizer.weak_convexity=1.0", "must be below 1"),
        ("regularizer.name=crr regularizer.hidden_channels=4", "hidden_channels = 4 must be a list such as [4, 8]"),
        ("regularizer.name=crr regularizer.hidden_channels=[4,0]", "must be at least 1"),
        ("regularizer.name=crr regularizer.hidden_channels=[4,1.5]", "must be a whole number"),
        ("problem.task=deblur problem.kernel=gaussian:4:1", "problem.kernel = 'gaussian:4:1' must be gaussian:SIZE"),
        ("problem.task=deblur problem.kernel=gaussian:5:0", "with an odd SIZE up to 1023 and a WIDTH from 0.01"),
        ("problem.task=deblur problem.kernel=gaussian:5", "such as gaussian:9:1.5"),
    ],
)
def test_mistakes_are_named(assignment, message):
    with pytest.raises(ConfigError) as error:
        override(Config(), assignment.split(" ") if "task=" in assignment or "name=" in assignment else [assignment])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["regularizer.name=tv", "regularizer.filters=99"],
         "regularizer.filters = 99 is not read by tv: it is for foe, crr, wcrr, icnn"),
        (["regularizer.weak_convexity=0.5"],
         "regularizer.weak_convexity = 0.5 is not read here: it is for regularizer.potential = mcp or weak_spline"),
        (["regularizer.name=crr", "regularizer.weak_convexity=0.5"],
         "is not read by crr: it is for wcrr, foe with regularizer.potential = mcp or weak_spline"),
        (["problem.kernel=levin:1"], "problem.kernel = 'levin:1' is not read by denoise: it is for deblur"),
        (["problem.task=deblur", "problem.hold_kernel=false"], "it is for problem.learn_kernel = true"),
        (["upper.step_decay=0.6"], "upper.step_decay = 0.6 is not read here: it is for upper.schedule = polynomial"),
        (["upper.algorithm=maid", "upper.batch_size=3"],
         "is not read by maid: it is for isgd, meha, stocbio, amigo, jfb, unroll"),
        (["regularizer.contrast_channels=8", "regularizer.learn=scale"], "is not for regularizer.contrast_channels"),
        (["upper.algorithm=jfb", "lower.uncertified=true"], "lower.uncertified = true is not read here"),
        (["upper.schedule=constant", "run.budget=1e4", "run.steps=9"], "run.steps = 9 is not read here"),
        (["run.budget=1e4"], "upper.schedule = one_cycle needs to know the number of steps"),
        (["run.validate_every=0", "run.patience=2"], "it is for run.validate_every above 0"),
        (["upper.algorithm=maid", "maid.eta=0.5"], "unknown section [maid]"),
        (["regularizer.name=tv", "regularizer.filtres=9"], "keys of [regularizer] for tv are name, weight, smoothing"),
    ],
)  # fmt: skip
def test_a_key_that_nothing_reads_is_refused_with_what_would_read_it(tmp_path, assignments, message):
    """By --set, even if the value is the default, and in a file."""
    with pytest.raises(ConfigError) as error:
        override(Config(), assignments)
    assert message in str(error.value)
    file = tmp_path / "mine.toml"
    file.write_text(
        "".join(
            f"{path} = {value if value[0].isdigit() or value in ('true', 'false') else repr(value)}\n"
            for path, _, value in (a.partition("=") for a in assignments)
        )
    )
    with pytest.raises(ConfigError) as error:
        load(file)
    assert message in str(error.value)


def test_what_a_choice_no_longer_reads_is_dropped_from_a_preset_and_refused_in_a_file_of_ones_own(tmp_path):
    changed = ["regularizer.name=tv", "upper.algorithm=maid"]
    preset = resolve_experiment("foe-denoise", changed)[1]
    assert (preset.regularizer, preset.upper) == (TvOptions(weight=0.005), MaidOptions(step_size=0.02))
    mine = tmp_path / "mine.toml"
    mine.write_text((PRESETS / "foe-denoise.toml").read_text())
    assert resolve_experiment(str(mine), [])[1] == resolve_experiment("foe-denoise", [])[1]
    with pytest.raises(ConfigError, match=r"regularizer\.filters = 48 is not read by tv"):
        resolve_experiment(str(mine), changed)


def test_a_value_passes_to_another_choice_only_where_the_key_means_the_same():
    """eta of maid bounds an error, eta of meha is a step."""
    maid = override(Config(), ["upper.algorithm=maid", "upper.eta=0.9", "upper.step_size=0.1"])
    assert override(maid, ["upper.algorithm=meha"]).upper == MehaOptions(step_size=0.1)


def test_a_configuration_holds_the_defaults_of_what_nothing_reads():
    with pytest.raises(ConfigError, match=r"upper\.step_decay = 0\.7 is not read here"):
        Config(upper=IsgdOptions(step_decay=0.7))


def test_the_gaussian_kernel_has_one_name():
    names = ("gaussian", "gaussian:9:1.5", "gaussian:09:1.50")
    kernels = {override(Config(), ["problem.task=deblur", f"problem.kernel={name}"]).problem for name in names}
    assert kernels == {Deblur()}
    assert Deblur(kernel="gaussian:5:0.123456789").gaussian == (5, 0.123456789)
    assert Deblur(kernel="levin:1").gaussian is None


def test_of_a_pair_of_noise_levels_one_is_evaluated():
    problems = [override(Config(), [f"problem.noise_level={n}"]).problem for n in ("[5/255, 50/255]", "[0.2, 0.45]")]
    assert [p.level for p in problems] == pytest.approx([25 / 255, 0.3])
    assert problems[0].levels == pytest.approx((5 / 255, 50 / 255))


def test_the_defaults_and_choices_are_those_of_the_regularizers():
    families = {TvOptions: TotalVariation, FoeOptions: FieldOfExperts, CrrOptions: FieldOfExperts,
                WcrrOptions: FieldOfExperts, IcnnOptions: InputConvexNetwork}  # fmt: skip
    assert set(families) == set(FAMILIES)
    for options, constructor in families.items():
        for name, parameter in inspect.signature(constructor).parameters.items():
            if parameter.default is not parameter.empty and hasattr(options, name) and name != "hidden_channels":
                assert getattr(options(), name) == parameter.default, (options, name)
    hints = get_type_hints(FoeOptions)
    assert set(get_args(hints["potential"])) == set(POTENTIALS)
    assert get_args(hints["boundary"]) == BOUNDARIES
    assert {name for name, potential in POTENTIALS.items() if potential.budgeted} == set(BUDGETED)


def test_mcp_needs_a_smoothing_below_its_weight():
    with pytest.raises(ConfigError, match="below weight"):
        override(Config(), ["regularizer.weight=0.01", "regularizer.smoothing=0.02", "regularizer.potential=mcp"])
