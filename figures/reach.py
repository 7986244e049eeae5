"""How long training takes until the held-out PSNR reaches a value, as a table.

A run is validated now and then. It reached a value where the line between two validations first does:

    c = c_0 + (c_1 - c_0) (P - P_0) / (P_1 - P_0),    P_0 < P <= P_1,

c the seconds or computations and P_0, P_1 the held-out PSNR of the last validation below P and of the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from figures.curves import Columns
from figures.style import escape
from figures.table import booktabs, pipes

NEVER = "not reached"


@dataclass(frozen=True)
class Reached:
    """What a run had cost where it reached some held-out PSNR."""

    seconds: float
    computations: float


Runs = dict[str, list[list[Reached | None]]]  # by the name of their group: runs, and of each what it cost per level


def crossing(costs: Sequence[float], psnr: Sequence[float], level: float) -> float | None:
    """Return at which cost a held-out PSNR first reaches `level`, both in dB; None where it never does. Entries of
    `psnr` that are no number belong to steps without a validation."""
    before: tuple[float, float] | None = None
    for cost, value in zip(costs, psnr, strict=True):
        if value >= level:
            c, p = before or (cost, value)
            return c if p == value else c + (cost - c) * (level - p) / (value - p)
        if value == value:
            before = cost, value
    return None


def first(run: Columns, level: float) -> Reached | None:
    """Return what a run had cost where its held-out PSNR first reached `level` in dB, None where it never did."""
    seconds, computations = (crossing(run[n], run["validation_psnr"], level) for n in ("seconds", "computations"))
    return None if seconds is None or computations is None else Reached(seconds, computations)


def markdown(groups: Runs, levels: Sequence[float]) -> str:
    """Return a Markdown table with two columns per level: seconds and computations, means over the runs of a group and
    their standard deviation. Where not all runs reached a level, it says how many did."""
    return pipes(_head(levels), [[name, *cells] for name, cells in _cells(groups, "±").items()], "---:")


def latex(groups: Runs, levels: Sequence[float]) -> str:
    r"""Return the same as a booktabs tabular."""
    return booktabs(_head(levels), [[escape(name), *cells] for name, cells in _cells(groups, r"$\pm$").items()])


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
