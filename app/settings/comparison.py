"""Comparisons: several experiments on the same problem, each with several seeds.

    about = "one line for the table"
    experiment = "foe-denoise"                    # what all variants share: a preset or a TOML file ...
    set = ["data.count=100", "run.budget=1e5"]    # ... with these differences, which every variant reads
    full = ["run.budget=3e5"]                     # further ones with --full
    seeds = [0, 1]
    reach = 26.5                                  # dB: the table tells the computations to this held-out PSNR

    [[variant]]
    name = "ISGD"
    set = ["upper.algorithm=isgd"]

    [[claim]]                                     # what is said, and where; a paired test says whether it holds here
    text = "stochastic steps get further at equal computations"
    source = "arXiv 2412.12049, abstract"
    better = "ISGD"
    than = ["MAID"]                               # of several: than the best of them
    margin = 0.05                                 # dB: it is not worse by more; 0, the default: it is better
    measure = "computations"                      # to `reach`, or near where the other ended; default: "psnr", held-out

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
    "about": str, "experiment": str, "set": list[str], "full": list[str], "seeds": list[int], "reach": float,
    "variant": list[dict], "claim": list[dict],
}  # fmt: skip
CLAIM_KEYS = {
    "text": str, "source": str, "better": str, "than": list[str], "margin": float, "measure": str, "against": str,
}  # fmt: skip
PSNR, COMPUTATIONS = "psnr", "computations"  # what claims are about
BEST, WORST = "best", "worst"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is said of two methods."""

    text: str
    source: str  # where it is said
    better: str  # a label
    than: tuple[str, ...]  # labels, of which one is chosen by `against`
    margin: float = 0.0  # dB that `better` may be worse by
    measure: str = PSNR  # held-out, at the end; or computations to a held-out PSNR
    against: str = BEST  # or WORST of `than`, by the mean of what is measured


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Experiments to be compared, by label, in the order of the figure."""

    name: str
    about: str
    variants: dict[str, Config]
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...] = ()
    reach: float | None = None  # held-out PSNR in dB, to which computations are counted

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
    claims = tuple(_claim(path, claim, list(variants), "reach" in values) for claim in values.get("claim", []))
    changes = [*(values.get("full", []) if full else []), *assignments]
    about = values.get("about", path.stem) + (f"; with {', '.join(changes)}" if changes else "")
    return Comparison(
        name=path.stem, about=about, variants=variants, seeds=seeds, claims=claims, reach=values.get("reach")
    )


def _claim(path: Path, values: dict[str, Any], labels: list[str], reach: bool) -> Claim:
    """Read one [[claim]]. Raises ConfigError."""
    _check(path, values, CLAIM_KEYS)
    for key in ("text", "source", "better", "than"):
        if not values.get(key):
            raise ConfigError(f"{path}: every [[claim]] needs text, source, better and than; {key} is missing")
    for label in (label for label in (values["better"], *values["than"]) if label not in labels):
        raise ConfigError(f"{path}: a claim names {shown(label)}, which is no [[variant]]")
    for key, allowed in (("measure", (PSNR, COMPUTATIONS)), ("against", (BEST, WORST))):
        if values.get(key, allowed[0]) not in allowed:
            raise ConfigError(f"{path}: {key} = {shown(values[key])} of a claim must be {' or '.join(allowed)}")
    if values.get("margin", 0.0) < 0 or (values.get("margin") and values.get("measure", PSNR) != PSNR):
        raise ConfigError(f"{path}: margin of a claim must be at least 0 dB, and is for measure = {PSNR}")
    if values.get("measure") == COMPUTATIONS and len(values["than"]) > 1 and not reach:
        raise ConfigError(f"{path}: a claim about computations against several variants needs reach = DB")
    return Claim(**{**values, "than": tuple(values["than"])})


def slug(label: str) -> str:
    """Turn a label into a folder's name: 'ISGD, step 0.1' -> 'isgd-step-0.1'."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")


def _check(path: Path, values: dict[str, Any], kinds: dict[str, Any]) -> None:
    for key, value in values.items():
        if key not in kinds:
            raise ConfigError(f"{path}: unknown key {shown(key)}; keys are {', '.join(kinds)}")
        outer, entry = get_origin(kinds[key]) or kinds[key], next(iter(get_args(kinds[key])), object)
        fits = isinstance(value, outer)
        if not fits or (outer is list and not all(type(e) is entry or entry is object for e in value)):
            name = outer.__name__ if entry is object else f"list of {entry.__name__}"
            raise ConfigError(f"{path}: {key} = {shown(value)} must be a {name}")
