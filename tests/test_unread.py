"""No setting is accepted and then read by nothing."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from PIL import Image

from app import assemble
from app.evaluation.simulation import simulation
from app.models.build import build_model
from app.models.files import ModelError
from app.processes import joined
from app.settings.families import FAMILIES, FoeOptions, RegularizerOptions
from app.settings.methods import METHODS, UpperOptions
from app.settings.options import SECTIONS, Config, ConfigError, Data, Lower, Run, settings
from app.settings.tasks import TASKS, Problem
from app.settings.toml import parse, to_dict
from app.training import run as runs
from app.training import start
from app.training.owner import owned
from app.training.run import Interrupted, Progress
from app.training.setup import prepare
from app.upper.method import Batch, Method, Step
from tests.conftest import ROOT

Choice = tuple[str, str, str, str]  # task, family, potential ("" where there is no choice), method
Nested = dict[str, dict[str, Any]]

BASES = {
    "problem": Problem, "data": Data, "regularizer": RegularizerOptions, "lower": Lower, "upper": UpperOptions,
    "run": Run,
}  # fmt: skip
POTENTIALS = get_args(get_type_hints(FoeOptions)["potential"])
KINDS = [(f.name, p) for f in FAMILIES for p in (POTENTIALS if f is FoeOptions else ("",))]
CHOICES: list[Choice] = [(t.task, *kind, m.algorithm) for t, kind, m in product(TASKS, KINDS, METHODS)]
# Settings under which keys are read that the defaults leave unread, or the other way round.
CIRCUMSTANCES: list[Nested] = [
    {},
    {"problem": {"learn_kernel": True}},
    {"problem": {"kernel": str(ROOT / "tests" / "data" / "kernel.npy")}},
    {"upper": {"schedule": "polynomial"}},
    {"upper": {"relative_accuracy": 0.1}},
    {"upper": {"schedule": "constant"}, "run": {"budget": 1e6}},
    {"run": {"validate_every": 0}},
    {"data": {"loss": "huber"}},
    {"regularizer": {"contrast_channels": 2}},
    {"regularizer": {"contrast_channels": 2, "updates": 2}},
    {"regularizer": {"contrast_channels": 2, "updates": 2}, "upper": {"through_guide": True}},
    {"regularizer": {"group_size": 2}},
]
# Legal values that the type of a key does not tell.
VALUES: dict[str, Any] = {
    "problem.noise_level": 0.1, "problem.kernel": "gaussian:5:1", "data.patch_size": 16,
    "run.device": "cpu", "run.budget": 5e5, "regularizer.smoothing": 0.02, "regularizer.hidden_channels": [3],
    "regularizer.least_smoothing": 0.001, "regularizer.largest_curvature": 100.0, "regularizer.group_size": 4,
}  # fmt: skip


def other(path: str, hint: Any, default: Any) -> Any:
    """A legal value that is not the default."""
    if path in VALUES:
        return VALUES[path]
    if get_origin(hint) is Literal:
        return next(v for v in get_args(hint) if v != default)
    return {bool: lambda: not default, int: lambda: default + 2, float: lambda: default / 2 or 0.25}[hint]()


@cache
def keys(images: str) -> list[tuple[str, str, Any]]:
    """Section, key and a legal value that is not the default, for all keys of all choices."""
    seen = {}
    for name, section in SECTIONS.items():
        for choice in section.choices:
            hints = get_type_hints(choice)
            for key in (f for f in fields(choice) if (name, f.name) not in seen):
                file = {
                    "mask": "mask.npy",
                    "coil_maps": "maps.npy",
                    "angle_file": "angles.npy",
                    "measured": "measured",
                }.get(key.name, "0.png")
                value = f"{images}/{file}" if hints[key.name] is str else None
                path = f"{name}.{key.name}"
                seen[name, key.name] = VALUES.get(path) or value or other(path, hints[key.name], key.default)
    return [(name, key, tuple(v) if isinstance(v, list) else v) for (name, key), v in seen.items()]


@cache
def config_of(choice: Choice, images: str, circumstance: int = 0, section: str = "", key: str = "", value: Any = None):
    """The configuration of a choice with one more key; None where it is refused. Six parameters: all that varies."""
    task, name, potential, algorithm = choice
    values: Nested = {
        "problem": {"task": task, "ridge": 1.0},  # few iterations
        "data": {"noise": "fixed", "images": images, "validation": images, "patch_size": 24, "validation_crop": 24},
        "regularizer": {"name": name, "weight": 0.05} | ({"potential": potential} if potential else {}),
        "lower": {"final_accuracy": 10},
        "upper": {"algorithm": algorithm},
        "run": {},
    }
    for name, more in CIRCUMSTANCES[circumstance].items():
        values[name] |= more
    if section:
        values[section][key] = list(value) if isinstance(value, tuple) else value
    with suppress(ConfigError):
        return parse(values)


def alone(choice: Choice, section: str) -> Choice:
    """The choice where the other sections are as small as can be: what reads a section does not look at them."""
    task, name, potential, algorithm = choice
    return {
        "problem": (task, "tv", "", "isgd"),
        "data": (task, "tv", "", "isgd"),
        "regularizer": ("denoise", name, potential, "isgd"),
        "upper": ("denoise", "foe", "charbonnier", algorithm),
        "lower": ("denoise", "tv", "", algorithm),
    }.get(section, ("denoise", "tv", "", "isgd"))


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The settings that are read, other than by the checks of a configuration."""
    seen: set[str] = set()
    checks, listening = Config.__post_init__, [True]

    def reader(section: str):
        def read(self: Any, name: str) -> Any:
            if listening[0] and name in type(self).__dataclass_fields__:
                seen.add(f"{section}.{name}")
            return object.__getattribute__(self, name)

        return read

    def unheard(self: Config) -> None:
        listening[0] = False
        try:
            checks(self)
        finally:
            listening[0] = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "__post_init__", unheard)
        for section, base in BASES.items():
            patch.setattr(base, "__getattribute__", reader(section))
        yield seen


@dataclass(frozen=True)
class Once:
    """A method whose first step asks the run to end after it."""

    method: Method[Any]
    full_batch = needs_finite_sum = needs_convexity = through_guide = False

    def begin(self, finite_sum: bool) -> Any:
        return self.method.begin(finite_sum)

    def images_per_step(self, count: int) -> int:
        return self.method.images_per_step(count)

    def step(self, k: int, batch: Batch, state: Any) -> Step:
        signal.raise_signal(signal.SIGTERM)
        return self.method.step(k, batch, state)


@cache
def read_by(config: Config, folder: Path, section: str) -> frozenset[str]:
    """What is read while everything is made that a configuration names, and, for the sections that say how to learn,
    in a step, a validation and what a run leaves behind."""
    with recorded() as seen:
        with suppress(ModelError, ConfigError):  # there is no trained model to start from
            start.begin(config)
        model = build_model(config)
        simulation(config, model, folder)
        assemble.method(config)
        if section == "regularizer":
            return frozenset(seen)
        with joined(assemble.device_of(config), config.run.timeout) as processes:  # as `train` does
            run = prepare(config, model, folder, folder, processes)
        if section in ("data", "run"):
            with owned(folder), suppress(Interrupted):
                runs.begin(run)
                run.validate()
                runs.train(replace(run, method=Once(run.method)), Progress(), quiet=True)
    return frozenset(seen)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> str:
    """Two small images in colour."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "measured").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray(pixels // 2 + 60).save(folder / "measured" / f"{i}.png")
    np.save(folder / "maps.npy", np.ones((2, 24, 24), complex))
    np.save(folder / "mask.npy", np.arange(24) % 3 > 0 | np.zeros((24, 1), bool))
    np.save(folder / "angles.npy", np.array([0.0, 40.0, 100.0]))
    return str(folder)


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_accepted_is_read(section, images, tmp_path):
    tried = {}
    places = {section, *{"lower": ["upper"], "upper": ["regularizer"]}.get(section, [])}
    circumstances = [i for i, more in enumerate(CIRCUMSTANCES) if not more or places & more.keys()]
    for choice, circumstance in product(dict.fromkeys(alone(c, section) for c in CHOICES), circumstances):
        if config_of(choice, images, circumstance) is None:
            continue  # this choice does not read what makes the circumstance
        for _, key, value in (k for k in keys(images) if k[0] == section):
            config = config_of(choice, images, circumstance, section, key, value)
            tried[key] = tried.get(key, False) or config is not None
            if config is not None:
                folder = tmp_path / f"{len(tried)}-{key}-{abs(hash(config))}"
                path = f"{section}.{key}"
                assert path in read_by(config, folder, section), (path, choice, CIRCUMSTANCES[circumstance])
    assert all(tried.values()), f"never accepted: {[key for key, once in tried.items() if not once]}"


def test_what_a_section_reads_does_not_look_at_the_others(images):
    """So that the test above, which varies one section at a time, speaks of all combinations."""

    def keys_of(choice: Choice, section: str) -> list[str]:
        config = config_of(choice, images)
        assert config is not None
        return [key for name, key, _, _ in settings(config) if name == section]

    for choice, section in product(CHOICES, SECTIONS):
        assert keys_of(choice, section) == keys_of(alone(choice, section), section), (choice, section)


def test_the_keys_of_denoising_by_total_variation_with_maid():
    values = to_dict(parse({"regularizer": {"name": "tv"}, "upper": {"algorithm": "maid"}}))
    assert {section: " ".join(keys) for section, keys in values.items()} == {
        "problem": "task noise_level ridge",
        "data": "images measured validation color patch_size noise targets loss count augment memory validation_crop",
        "regularizer": "name weight smoothing start learn isotropic noise_nodes",
        "lower": "solver final_accuracy max_iterations",
        "upper": "algorithm step_size accuracy eta relative_error barzilai_borwein memory",
        "run": "steps budget seed device timeout precision validate_every checkpoint_every average keep_best patience",
    }
