"""`compare`: train several experiments on the same problem, or take finished runs; one table, one figure."""

from pathlib import Path

from app.drawing.runs import group_folders
from app.files import write_own
from app.settings.comparison import Comparison
from app.training import records, verdicts
from app.training.outcome import csv_table, held_out_csv, markdown, outcomes_of
from app.training.session import finish_all
from app.training.shard import finish_shard
from app.training.verdicts import rows_of
from figures import curves
from figures.style import encoded


def compare(comparison: Comparison, out: Path, data_root: Path, quiet: bool, command: str) -> int:
    """Train what is not there yet (an interrupted comparison goes on where it stopped), then draw. A run that diverges
    is left out, and the table says so."""
    return _summarize(finish_all(comparison.runs(), out, data_root, quiet, command), out, data_root, comparison)


def compare_shard(
    comparison: Comparison, shard: tuple[int, int], out: Path, data_root: Path, quiet: bool, command: str
) -> int:
    """Train the runs of one job of several. The one that ends last draws; those before it say what is missing."""
    groups, missing = finish_shard(comparison.runs(), shard, out, data_root, quiet, command)
    if not missing:
        return _summarize(groups, out, data_root, comparison)
    count = sum(len(runs) for runs in comparison.runs().values())
    print(
        f"{len(missing)} of {count} runs have not ended: {', '.join(missing)}; the job that ends last draws the table"
    )
    return 0


def compare_runs(runs: list[str], out: Path, data_root: Path) -> int:
    """Compare finished runs, [LABEL=]RUN each; runs that differ in their seed alone are one method. Raises RunError."""
    return _summarize(group_folders(runs), out, data_root)


def _summarize(groups: dict[str, list[Path]], out: Path, data_root: Path, comparison: Comparison | None = None) -> int:
    columns = {label: [records.read(run / "metrics.csv") for run in runs] for label, runs in groups.items() if runs}
    reach = comparison.reach if comparison else None
    outcomes = outcomes_of(groups, data_root, reach)
    table, rows = markdown(outcomes, reach), rows_of(comparison, outcomes) if comparison else []
    if comparison and comparison.about:
        table = f"{comparison.about[0].upper()}{comparison.about[1:]}:\n\n{table}"
    claims = f"{verdicts.markdown(rows)}\n{verdicts.TESTS}"
    files = {"table.md": table, "table.csv": csv_table(outcomes, reach), "held-out.csv": held_out_csv(outcomes)}
    files |= {"claims.md": claims, "claims.csv": verdicts.csv_table(rows)} if rows else {}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_own(out / name, text.encode())
    for suffix in (".png", ".pdf"):
        write_own(out / f"comparison{suffix}", encoded(curves.compare(columns), suffix))
    print(
        table,
        *([claims] if rows else []),
        *(out / name for name in (*files, "comparison.png", "comparison.pdf")),
        sep="\n",
    )
    return 0
