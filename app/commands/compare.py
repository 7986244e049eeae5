"""`compare`: train several experiments on the same problem, or take finished runs; one table, one figure."""

import logging
from pathlib import Path

from app.drawing.runs import group_folders
from app.files import write_atomically
from app.settings.comparison import Comparison
from app.training import records
from app.training.checkpoint import RunError
from app.training.outcome import csv_table, markdown, outcome, verdicts
from app.training.session import DONE, INTERRUPTED, finish
from figures import curves
from figures.style import save

log = logging.getLogger("app")


def compare(comparison: Comparison, out: Path, data_root: Path, quiet: bool, command: str) -> int:
    """Train what is not there yet (an interrupted comparison goes on where it stopped), then draw. A run that diverges
    is left out, and the table says so."""
    groups: dict[str, list[Path]] = {}
    for label, runs in comparison.runs().items():
        finished = groups.setdefault(label, [])
        for name, config in runs:
            log.info("%s: %s", label, out / name)
            status = finish(config, out / name, data_root, quiet, command)
            if status == INTERRUPTED:
                return status
            if status == DONE:
                finished.append(out / name)
    return summarize(groups, out, data_root, comparison.about, comparison.claims)


def compare_runs(runs: list[str], out: Path, data_root: Path) -> int:
    """[LABEL=]RUN; runs that differ in their seed alone are one method."""
    return summarize(group_folders(runs), out, data_root)


def summarize(
    groups: dict[str, list[Path]],
    out: Path,
    data_root: Path,
    about: str = "",
    claims: tuple[tuple[str, str], ...] = (),
) -> int:
    if not any(groups.values()):
        raise RunError("no run came to its end: nothing to compare")
    columns = {label: [records.read(run / "metrics.csv") for run in runs] for label, runs in groups.items() if runs}
    outcomes = {label: [outcome(run, data_root) for run in runs] for label, runs in groups.items()}
    out.mkdir(parents=True, exist_ok=True)
    table = (about and f"{about[0].upper()}{about[1:]}:\n\n") + markdown(outcomes) + verdicts(claims, outcomes)
    write_atomically(out / "table.md", table.encode())
    write_atomically(out / "table.csv", csv_table(outcomes).encode())
    for suffix in ("png", "pdf"):
        save(curves.compare(columns), out / f"comparison.{suffix}")
    print(table)
    for name in ("table.md", "table.csv", "comparison.png", "comparison.pdf"):
        print(out / name)
    return 0
