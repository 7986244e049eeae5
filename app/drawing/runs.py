"""How runs learned."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from app.drawing.arguments import split_label
from app.drawing.sources import labelled
from app.settings.options import Config
from app.settings.toml import load
from app.training import history, records
from app.training.checkpoint import RunError
from app.training.setup import past
from datasets.files import home_expanded
from figures import animation, curves, parameters, reach
from figures.animation import Animation
from figures.curves import QUANTITIES, Groups
from figures.reach import Reached
from figures.style import PAPER, FigureError, Look


def draw_curves(
    runs: list[str],
    x: str = "computations",
    quantities: tuple[str, ...] = tuple(QUANTITIES),
    log_x: bool = False,
    look: Look = PAPER,
) -> Figure:
    """Draw the training curves of [LABEL=]RUN, one colour per group. Raises RunError and FigureError."""
    return curves.draw(groups(runs), x, quantities, log_x, look)


def groups(runs: list[str]) -> Groups:
    """Read [LABEL=]RUN as columns of metrics.csv, by the name of their group. Raises RunError."""
    return {name: [records.read(run / "metrics.csv") for run in found] for name, found in group_folders(runs).items()}


def write_reach(runs: list[str], levels: tuple[float, ...], suffix: str = ".md") -> str:
    """Return a table of how long [LABEL=]RUN trained until their held-out PSNR reached each level in dB: LaTeX for
    .tex, Markdown for .md. Seconds include those of the model that a run began with, computations are its own. Raises
    RunError."""
    found = {name: [_reached(run, levels) for run in folders] for name, folders in group_folders(runs).items()}
    return {".tex": reach.latex, ".md": reach.markdown}[suffix](found, levels)


def _reached(run: Path, levels: tuple[float, ...]) -> list[Reached | None]:
    columns, before = records.read(run / "metrics.csv"), past(run).get("seconds_before", 0.0)
    found = [reach.first(columns, level) for level in levels]
    return [r and replace(r, seconds=r.seconds + before) for r in found]


def group_folders(runs: list[str]) -> dict[str, list[Path]]:
    """Collect [LABEL=]RUN as folders by name. Raises RunError for a folder that is no run.

    Runs of one LABEL are a group, and so are runs without one whose settings differ in the seed alone.
    """
    found: dict[str, list[Path]] = {}
    seen: Counter[tuple[Config, int]] = Counter()
    names: dict[tuple[Config, int], str] = {}  # settings but for the seed, and which of their repetitions -> group
    for (label, source), given in zip(labelled(runs), runs, strict=True):
        folder = home_expanded(source)
        if not (folder / "metrics.csv").is_file():
            raise RunError(f"{folder} is not a run folder (no metrics.csv)")
        if not split_label(given)[0] and (folder / "config.toml").is_file():
            config = load(folder / "config.toml")
            kind = replace(config, run=replace(config.run, seed=0))
            seen[kind, config.run.seed] += 1
            label = names.setdefault((kind, seen[kind, config.run.seed]), label)
        found.setdefault(label, []).append(folder)
    return {_without_seed(name) if len(r) > 1 else name: r for name, r in found.items()}


def _without_seed(name: str) -> str:
    return re.sub(r"[-_.]?seed[-_.=]?\d+$|[-_.]\d+$", "", name) or name


def draw_parameters(run: str, log_x: bool = False, look: Look = PAPER) -> Figure:
    """Draw how weights and smoothings evolved. Raises RunError without a history, FigureError without weights."""
    drawn = parameters_of(Path(run), log_x, look)
    if drawn is None:
        raise FigureError(f"{run} learned no weights and smoothings: there is nothing to draw")
    return drawn


def parameters_of(run: Path, log_x: bool = False, look: Look = PAPER) -> Figure | None:
    """Draw how weights and smoothings evolved, or return None where the history has none. Raises RunError."""
    kept = history.read(run)
    if not {"weights", "smoothings"} <= kept.keys():
        return None
    return parameters.draw(kept["steps"], kept["weights"].flatten(1), kept["smoothings"].flatten(1), log_x, look)


def animate_filters(run: str, look: Look = PAPER) -> Animation:
    """Draw the filters of a run while it learned. Raises RunError without a history, FigureError without filters."""
    kept = history.read(Path(run))
    if "filters" not in kept:
        raise FigureError(f"{run} has no filters to animate (this animation is for foe)")
    return animation.filters(kept["steps"], kept["filters"], kept["weights"], kept["smoothings"], look)
