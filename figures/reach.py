"""How long training takes until the held-out PSNR reaches a value, as a table.

A run is validated now and then: it reached a value at the first validation that found it, and perhaps a little before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from figures.curves import Columns
from figures.style import escape

NEVER = "not reached"


@dataclass(frozen=True)
class Reached:
    """What a run had cost at the first validation that found a PSNR of at least some value."""

    seconds: float
    computations: float


Runs = dict[str, list[list[Reached | None]]]  # by the name of their group: runs, and of each what it cost per level


def first(run: Columns, level: float) -> Reached | None:
    """Return the cost at the first row of a metrics.csv whose held-out PSNR is at least `level` in dB, None where there
    is none."""
    rows = zip(run["validation_psnr"], run["seconds"], run["computations"], strict=True)
    return next((Reached(seconds, computations) for psnr, seconds, computations in rows if psnr >= level), None)


def markdown(groups: Runs, levels: Sequence[float]) -> str:
    """Return a Markdown table with two columns per level: seconds and computations, means over the runs of a group and
    their standard deviation. Where not all runs reached a level, it says how many did."""
    rows = [_head(levels), ["---", *(["---:"] * 2 * len(levels))]]
    rows += [[name.replace("|", r"\|"), *cells] for name, cells in _cells(groups, "±").items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def latex(groups: Runs, levels: Sequence[float]) -> str:
    r"""Return the same as a booktabs tabular."""
    body = [[escape(name), *cells] for name, cells in _cells(groups, r"$\pm$").items()]
    lines = [" & ".join(row) + r" \\" for row in [_head(levels), *body]]
    begin = rf"\begin{{tabular}}{{l{'r' * 2 * len(levels)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def _head(levels: Sequence[float]) -> list[str]:
    return ["runs", *(f"{what} to {level:g} dB" for level in levels for what in ("seconds", "computations"))]


def _cells(groups: Runs, sign: str) -> dict[str, list[str]]:
    return {name: [cell for level in zip(*runs, strict=True) for cell in _pair(level, sign)]
            for name, runs in groups.items()}  # fmt: skip


def _pair(runs: Sequence[Reached | None], sign: str) -> tuple[str, str]:
    """Write the seconds and the computations of one group to one level."""
    known = [run for run in runs if run is not None]
    if len(known) < len(runs):
        some = f"reached by {len(known)} of {len(runs)}" if known else NEVER
        return some, some

    def text(values: list[float]) -> str:
        return f"{fmean(values):.0f}" + (f" {sign} {stdev(values):.0f}" if len(values) > 1 else "")

    return text([run.seconds for run in known]), text([run.computations for run in known])
