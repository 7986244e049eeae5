"""How runs learned."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from app.drawing.sources import labelled
from app.settings.options import Config
from app.settings.toml import load
from app.training import history, records
from app.training.checkpoint import RunError
from figures import animation, curves, parameters
from figures.animation import Animation
from figures.curves import QUANTITIES, Groups
from figures.style import PAPER, FigureError, Look


def draw_curves(
    runs: list[str],
    x: str = "computations",
    quantities: tuple[str, ...] = tuple(QUANTITIES),
    log_x: bool = False,
    look: Look = PAPER,
) -> Figure:
    return curves.draw(groups(runs), x, quantities, log_x, look)


def groups(runs: list[str]) -> Groups:
    """[LABEL=]RUN -> columns by the name of their group."""
    return {name: [records.read(run / "metrics.csv") for run in found] for name, found in group_folders(runs).items()}


def group_folders(runs: list[str]) -> dict[str, list[Path]]:
    """[LABEL=]RUN -> folders by name; runs of one LABEL, or whose settings differ in the seed alone, are a group."""
    found: dict[str, list[Path]] = {}
    seen: Counter[tuple[Config, int]] = Counter()
    names: dict[tuple[Config, int], str] = {}  # settings but for the seed, and which of their repetitions -> group
    for (label, source), given in zip(labelled(runs), runs, strict=True):
        folder = Path(source).expanduser()
        if not (folder / "metrics.csv").is_file():
            raise RunError(f"{folder} is not a run folder (no metrics.csv)")
        if not given.startswith(f"{label}=") and (folder / "config.toml").is_file():
            config = load(folder / "config.toml")
            kind = replace(config, run=replace(config.run, seed=0))
            seen[kind, config.run.seed] += 1
            label = names.setdefault((kind, seen[kind, config.run.seed]), label)
        found.setdefault(label, []).append(folder)
    return {_without_seed(name) if len(r) > 1 else name: r for name, r in found.items()}


def _without_seed(name: str) -> str:
    return re.sub(r"[-_.]?seed[-_.=]?\d+$|[-_.]\d+$", "", name) or name


def draw_parameters(run: Path, log_x: bool = False, look: Look = PAPER) -> Figure:
    past = history.read(run)
    if "weights" not in past:
        raise FigureError(f"{run} learned an amplitude and a contrast alone: there are no weights to draw")
    return parameters.draw(past["steps"], past["weights"].flatten(1), past["smoothings"].flatten(1), log_x, look)


def animate_filters(run: Path, look: Look = PAPER) -> Animation:
    past = history.read(run)
    if "filters" not in past:
        raise FigureError(f"{run} has no filters to animate (this animation is for foe)")
    return animation.filters(past["steps"], past["filters"], past["weights"], past["smoothings"], look)
