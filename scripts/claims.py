"""What papers claim of the methods of this program, and what is found here, line by line.

The claims are data: [[claim]] of scripts/comparisons/*.toml, whose runs `app compare` puts to the test, and
scripts/toys/claims.py. This page collects what both have found and `scripts/results` keeps, FOUND/NAME.csv. A claim
that was not tested is shown with the command that does it; what nothing here can test is shown with the reason.
"""

import argparse
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from app.cli import COMPARISONS, resolve_comparison
from app.files import write_atomically
from app.settings.comparison import Comparison
from app.training.paired import FAILS, HOLDS, UNDECIDED
from app.training.verdicts import NOT_TESTED, TESTS, Row, markdown, read_csv

PAPERS = {
    "2412.12049": "Bilevel learning with inexact stochastic gradients (ISGD)",
    "2511.06774": "Bilevel learning via inexact stochastic gradient descent (ISGD)",
    "2308.10098": "An adaptively inexact first-order method for bilevel optimization (MAID)",
    "2405.09927": "Moreau envelope for nonconvex bi-level optimization (MEHA)",
    "2409.19791": "Gradient descent with adaptive stepsize converges (nearly) linearly (GDPolyak)",
}
FOUND = Path("figures/gallery/claims")
OWN = "This program"
NOT_RUN = "not run here"

UNTESTED = (
    ("convergence in expectation like k^(-1/4) with the best schedules", "arXiv 2511.06774, abstract",
     "the rate is of the exact gradient of f, which would cost a solve of all images at every step of many runs"),
    ("adaptive accuracies and steps for multinomial logistic regression", "arXiv 2308.10098, abstract",
     "this program has images only"),
    ("faster than other methods in hyper-parameter learning and architecture search", "arXiv 2405.09927, abstract",
     "this program has images only"),
    ("linear convergence in matrix factorization", "arXiv 2409.19791, abstract", "scripts/toys has no such example"),
)  # fmt: skip
TOYS = (
    Row(claim="GDPolyak on its own examples: rates, and what its public code printed", source="arXiv 2409.19791",
        setting="three examples in float64", found="", verdict=""),
    Row(claim="MEHA on its own examples: rates and known solutions", source="arXiv 2405.09927",
        setting="a non-convex and a convex example in float64", found="", verdict=""),
)  # fmt: skip


def of_comparison(comparison: Comparison, found: Path) -> list[Row]:
    """Return the claims of a comparison with what its runs have shown, in the order of its file."""
    file = found / f"{comparison.name}.csv"
    known = {(r.claim, r.source): r for r in (read_csv(file.read_text()) if file.is_file() else ())}
    command = f"`python -m app compare {comparison.name} --out runs/{comparison.name}`"
    unknown = Row(claim="", source="", setting=comparison.about, found="", verdict=f"{NOT_RUN}: {command}")
    return [known.get((c.text, c.source), replace(unknown, claim=c.text, source=c.source)) for c in comparison.claims]


def of_toys(found: Path) -> list[Row]:
    """Return the claims of the papers' own examples, or one line for each paper where they have not been run."""
    file = found / "toys.csv"
    if file.is_file():
        return read_csv(file.read_text())
    return [replace(row, verdict=f"{NOT_RUN}: `scripts/toy --out runs/toys`") for row in TOYS]


def all_rows(comparisons: list[Comparison], found: Path) -> list[Row]:
    """Return the claims of all comparisons, of the toys, and those that nothing here can test."""
    untested = [
        Row(claim=claim, source=source, setting="", found="", verdict=f"{NOT_TESTED}: {why}")
        for claim, source, why in UNTESTED
    ]
    return [*(row for c in comparisons for row in of_comparison(c, found)), *of_toys(found), *untested]


def page(rows: list[Row]) -> str:
    """Write the claims paper by paper in Markdown, and count the verdicts."""
    by_paper: dict[str, list[Row]] = {number: [] for number in PAPERS} | {OWN: []}
    for row in rows:
        number = re.search(r"\d{4}\.\d{5}", row.source)
        by_paper[number.group() if number else OWN].append(row)
    counts = Counter(next(v for v in VERDICTS if row.verdict.startswith(v)) for row in rows)
    tally = ", ".join(f"{v}: {counts[v]}" for v in VERDICTS)
    parts = [f"# Claims, line by line\n\nWritten by `scripts/results` from finished runs. {tally}.\n\n{TESTS}\n{COSTS}"]
    for number, found in by_paper.items():
        title = f"{PAPERS[number]}, arXiv {number}" if number in PAPERS else number
        parts.append(f"## {title}\n\n{markdown(found)}" if found else "")
    return "\n".join(filter(None, parts))


VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_TESTED, NOT_RUN)
COSTS = """\
When does a schedule of accuracies save? A solver that converges linearly needs about sqrt(kappa) log(d / eps) gradients
from a distance d to the solution: the accuracy eps enters through its logarithm alone. Warm starts make d as small as
theta has moved since the last visit, and schedules save next to nothing (comparison `accuracy`). They can save where a
digit is dear, as kappa is large and solves start cold, and where a coarse accuracy points downhill at first but ends
elsewhere than a fine one (comparison `cold-starts`).
"""


def main() -> None:
    """Print the page, or write it where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--found", type=Path, default=FOUND, help="what was found (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write it there instead of printing it")
    o = parser.parse_args()
    comparisons = [resolve_comparison([path.stem], [], False) for path in sorted(COMPARISONS.glob("*.toml"))]
    text = page(all_rows(comparisons, o.found))
    if o.out:
        write_atomically(o.out, text.encode())
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
