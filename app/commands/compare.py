"""`compare`: train several experiments on the same problem, or take finished runs; one table, one figure."""

from pathlib import Path

from app.drawing.runs import group_folders
from app.files import write_own
from app.settings.comparison import Comparison
from app.training import records
from app.training.outcome import tables
from app.training.session import finish_all
from app.training.shard import finish_shard
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
    table, csv = tables(groups, data_root, comparison)
    out.mkdir(parents=True, exist_ok=True)
    write_own(out / "table.md", table.encode())
    write_own(out / "table.csv", csv.encode())
    for suffix in (".png", ".pdf"):
        write_own(out / f"comparison{suffix}", encoded(curves.compare(columns), suffix))
    print(table, *(out / name for name in ("table.md", "table.csv", "comparison.png", "comparison.pdf")), sep="\n")
    return 0
