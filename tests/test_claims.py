"""The page of claims: none is left out, whether its runs are there or not, and each stands under its paper."""

from pathlib import Path

import pytest

from app.cli import COMPARISONS, resolve_comparison
from app.training.paired import FAILS, HOLDS
from app.training.verdicts import Row, csv_table
from scripts.claims import NOT_RUN, PAPERS, UNTESTED, all_rows, page


@pytest.fixture(scope="module")
def comparisons():
    return [resolve_comparison([path.stem], [], False) for path in sorted(COMPARISONS.glob("*.toml"))]


def test_a_claim_without_runs_is_shown_with_the_command_that_makes_them(comparisons, tmp_path):
    rows = all_rows(comparisons, tmp_path)
    text = page(rows)
    for comparison in comparisons:
        for claim in comparison.claims:
            assert f"| {claim.text} | {claim.source} | {comparison.about} |" in text
        if comparison.claims:
            assert f"{NOT_RUN}: `python -m app compare {comparison.name} --out runs/{comparison.name}`" in text
    assert f"{NOT_RUN}: `scripts/toy --out runs/toys`" in text
    assert text.count(f"| could not be tested: {UNTESTED[1][2]} |") == 2
    assert f"{HOLDS}: 0, {FAILS}: 0" in text


def test_what_was_found_stands_in_place_of_the_command_and_an_older_claim_does_not(comparisons, tmp_path):
    accuracy = next(c for c in comparisons if c.name == "accuracy")
    first = accuracy.claims[0]
    found = Row(claim=first.text, source=first.source, setting="small", found="0.80", verdict=HOLDS)
    older = Row(claim="something else", source=first.source, setting="small", found="2", verdict=HOLDS)
    toy = Row(claim="falls linearly", source="public code of arXiv 2409.19791", setting="toy", found="9", verdict=FAILS)
    for name, rows in (("accuracy", [older, found]), ("toys", [toy])):
        (tmp_path / f"{name}.csv").write_text(csv_table(rows))
    text = page(all_rows(comparisons, tmp_path))
    assert f"| {first.text} | {first.source} | small | 0.80 | holds |" in text
    assert "something else" not in text
    assert f"{HOLDS}: 1, {FAILS}: 1" in text
    assert text.index("arXiv 2409.19791\n") < text.index("falls linearly")


def test_every_paper_has_a_claim_and_every_claim_a_paper_or_is_our_own(comparisons, tmp_path):
    sections = page(all_rows(comparisons, tmp_path)).split("\n## ")[1:]
    assert [s.splitlines()[0].rpartition("arXiv ")[2] for s in sections] == [*PAPERS, "This program"]
    assert all(section.count("\n| ") >= 3 for section in sections)


def test_the_script_makes_every_comparison():
    script = (Path(__file__).parent.parent / "scripts" / "results").read_text()
    names = script.partition("all=(")[2].partition(")")[0].split()
    assert sorted(names) == sorted([*(p.stem for p in COMPARISONS.glob("*.toml")), "toys"])
