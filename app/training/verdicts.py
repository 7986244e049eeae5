"""What is claimed of the methods of a comparison, and whether it holds for its finished runs."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from math import exp
from statistics import fmean

from app.settings.comparison import COMPUTATIONS, WORST, Claim, Comparison
from app.training.outcome import Outcome, Outcomes, computations_to
from app.training.paired import FAILS, FEWEST, HOLDS, LEVEL, UNDECIDED, Paired, over_images, over_seeds
from figures.table import pipes

TESTS = f"""\
What is tested: d is the PSNR of the first method less that of the second, image by image, on the same crops of the
held-out images with the same noise, averaged over the seeds; ± is the standard error of its mean over the images, and
p is of Wilcoxon's signed-rank test, two-sided. It is about the trained models: how d varies from seed to seed is told
beside. Computations are compared seed by seed by Student's paired t-test of their logarithms ({FEWEST} seeds or more).
"Holds" and "does not hold" are said where p < {LEVEL:g} and ranks, mean and every seed agree in the sign; else
"undecided": no difference can be told from zero. Tests are not corrected for their number, nor for the choice of the
best or worst of several methods, which the same runs make.
"""
NOT_TESTED = "could not be tested"
CLOSE = 0.05  # dB below where a method ended, which it comes near with few computations and then improves slowly


@dataclass(frozen=True, kw_only=True)
class Row:
    """A claim and what was found: one line of a page."""

    claim: str
    source: str
    setting: str
    found: str
    verdict: str


def rows_of(comparison: Comparison, outcomes: Outcomes) -> list[Row]:
    """Return one row for every claim of a comparison."""
    return [_row(claim, comparison, outcomes) for claim in comparison.claims]


def _row(claim: Claim, comparison: Comparison, outcomes: Outcomes) -> Row:
    measured = _computations if claim.measure == COMPUTATIONS else _psnr
    diverged = [label for label in (claim.better, *claim.than) if not outcomes[label]]
    found, verdict = "", f"{NOT_TESTED}: {', '.join(diverged)} diverged"
    if not diverged:
        found, verdict = measured(claim, comparison.reach, outcomes)
    return Row(claim=claim.text, source=claim.source, setting=comparison.about, found=found, verdict=verdict)


def _psnr(claim: Claim, reach: float | None, outcomes: Outcomes) -> tuple[str, str]:
    """Compare what both end with, image by image."""
    means = {label: fmean(_mean(run) for run in outcomes[label]) for label in claim.than}
    other = (min if claim.against == WORST else max)(means, key=means.__getitem__)
    first, second = ({run.seed: run.held_out for run in outcomes[label]} for label in (claim.better, other))
    test = over_images(first, second, claim.margin)
    if test is None:
        return "", f"{NOT_TESTED}: no seed of both came to its end"
    margin = f"not worse by {claim.margin:g} dB: " if claim.margin else ""
    text = f"{margin}{claim.better} - {other}: {test.difference:+.3f} ± {test.error:.3f} dB"
    return f"{text} (n = {test.images}, p = {test.p:.2g}{_seeds(test)})", test.verdict


def _computations(claim: Claim, reach: float | None, outcomes: Outcomes) -> tuple[str, str]:
    """Compare how many computations both need to a PSNR: `reach`, or CLOSE to where the other ended. One that does not
    get there counts with all it has spent, which favours it: a verdict in its favour is then undecided."""

    def needs(label: str, psnr: float) -> dict[int, float]:
        courses = {run.seed: (run.course, run.computations) for run in outcomes[label]}
        return {seed: computations_to(psnr, course) or spent for seed, (course, spent) in courses.items()}

    def target(label: str) -> float:
        return fmean(run.validation_psnr for run in outcomes[label]) - CLOSE if reach is None else reach

    means = {label: fmean(needs(label, target(label)).values()) for label in claim.than}
    other = (max if claim.against == WORST else min)(means, key=means.__getitem__)
    psnr = target(other)
    test = over_seeds(needs(claim.better, psnr), needs(other, psnr))
    if test is None:
        return "", f"{NOT_TESTED}: no seed of both came to its end"
    short = {
        label: f"; {label} did not get there with {missing} of {len(outcomes[label])} seeds"
        for label in (claim.better, other)
        if (missing := sum(computations_to(psnr, run.course) is None for run in outcomes[label]))
    }
    favoured = (test.verdict == HOLDS and claim.better in short) or (test.verdict == FAILS and other in short)
    p = f"p = {test.p:.2g}" if test.p == test.p else f"no test of fewer than {FEWEST} seeds"
    spread = f", factor over seeds {exp(test.spread):.2f}" if test.spread is not None else ""
    text = f"computations to {psnr:.2f} dB, {claim.better} / {other}: {exp(test.difference):.2f}"
    text += f" ({test.seeds} seed{'s' * (test.seeds > 1)}{spread}, {p}{''.join(short.values())})"
    return text, UNDECIDED if favoured else test.verdict


def _mean(run: Outcome) -> float:
    return fmean(run.held_out.values())


def _seeds(test: Paired) -> str:
    return ", 1 seed" if test.spread is None else f", {test.seeds} seeds: ± {test.spread:.3f} dB"


def markdown(rows: Sequence[Row]) -> str:
    """Write one line for each claim as a Markdown table."""
    return pipes([f.name for f in fields(Row)], [astuple(row) for row in rows])


def csv_table(rows: Sequence[Row]) -> str:
    """Write the same as CSV, from which pages of several comparisons are made."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f.name for f in fields(Row)])
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue()


def read_csv(text: str) -> list[Row]:
    """Read what `csv_table` wrote."""
    return [Row(**row) for row in csv.DictReader(io.StringIO(text))]
