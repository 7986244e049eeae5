"""Comparisons: several experiments on the same problem, each with several seeds.

    about = "one line for the table"
    experiment = "foe-denoise"                    # what all variants share: a preset or a TOML file ...
    set = ["data.count=100", "run.budget=1e5"]    # ... with these differences, which every variant reads
    full = ["run.budget=3e5"]                     # further ones with --full
    seeds = [0, 1]
    claims = [["ISGD", "MAID"]]                   # who is said to reach at least whom; the table says whether it is so

    [[variant]]
    name = "ISGD"
    set = ["upper.algorithm=isgd"]

Imports nothing heavy: a wrong key must be answered at once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from app.settings.fields import shown
from app.settings.options import Config, ConfigError
from app.settings.toml import override, read_toml

KEYS = {
    "about": str, "experiment": str, "set": list[str], "full": list[str], "seeds": list[int], "claims": list[list],
    "variant": list[dict],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Experiments to be compared, by label, in the order of the figure."""

    name: str
    about: str
    variants: dict[str, Config]
    seeds: tuple[int, ...]
    claims: tuple[tuple[str, str], ...] = ()  # labels: the first reaches at least the second

    def runs(self) -> dict[str, list[tuple[str, Config]]]:
        """Return, for every label, the folder name and the configuration of every seed."""
        return {
            label: [(f"{slug(label)}-seed{s}", replace(c, run=replace(c.run, seed=s))) for s in self.seeds]
            for label, c in self.variants.items()
        }


def is_comparison(path: Path) -> bool:
    """Return whether a TOML file has variants, or cannot be read at all (which reading it will say)."""
    try:
        return path.suffix == ".toml" and path.is_file() and "variant" in read_toml(path)
    except ConfigError:
        return True


def read_comparison(path: Path, base: Callable[[str], Config], assignments: list[str], full: bool) -> Comparison:
    """Read a comparison file; `base` finds an experiment by its name; later settings win. Every key must be read by the
    variant that is given it, those of the common `set` by all. Raises ConfigError."""
    values = read_toml(path)
    _check(path, values, KEYS)
    config = base(values.get("experiment", ""))
    common = values.get("set", []) + (values.get("full", []) if full else [])
    variants: dict[str, Config] = {}
    for variant in values.get("variant", []):
        _check(path, variant, {"name": str, "set": list[str], "full": list[str]})
        label = variant.get("name", "")
        if not slug(label) or slug(label) in {slug(other) for other in variants}:
            raise ConfigError(f"{path}: every [[variant]] needs a name of its own, not {shown(label)}")
        own = variant.get("set", []) + (variant.get("full", []) if full else [])
        try:
            variants[label] = override(config, [*common, *own, *assignments])
        except ConfigError as error:
            raise ConfigError(f"{path}, variant {label!r}: {error}") from None
    if not variants:
        raise ConfigError(f"{path} has no [[variant]]")
    seeds = tuple(values.get("seeds", [0]))
    claims = tuple(map(tuple, values.get("claims", [])))
    for claim in claims:
        if len(claim) != 2:
            raise ConfigError(f"{path}: claims = {shown(values['claims'])} must be pairs of names")
        for label in (label for label in claim if label not in list(variants)):
            raise ConfigError(f"{path}: claims name {shown(label)}, which is no [[variant]]")
    about = values.get("about", path.stem)
    return Comparison(name=path.stem, about=about, variants=variants, seeds=seeds, claims=claims)


def slug(label: str) -> str:
    """Turn a label into a folder's name: 'ISGD, step 0.1' -> 'isgd-step-0.1'."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")


def _check(path: Path, values: dict[str, Any], kinds: dict[str, Any]) -> None:
    for key, value in values.items():
        if key not in kinds:
            raise ConfigError(f"{path}: unknown key {shown(key)}; keys are {', '.join(kinds)}")
        outer, entry = get_origin(kinds[key]) or kinds[key], next(iter(get_args(kinds[key])), object)
        if not isinstance(value, outer) or not all(type(e) is entry or entry is object for e in value):
            name = outer.__name__ if entry is object else f"list of {entry.__name__}"
            raise ConfigError(f"{path}: {key} = {shown(value)} must be a {name}")
