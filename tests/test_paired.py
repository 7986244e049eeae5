"""Verdicts on claims: a difference that chance makes is none, and one that is there is found, with its sign."""

import math

import numpy as np
import pytest

from app.settings.comparison import COMPUTATIONS, PSNR, WORST, Claim, Comparison
from app.settings.options import Config
from app.training.outcome import Outcome, computations_to, markdown
from app.training.paired import FAILS, HOLDS, UNDECIDED, HeldOut, over_images, over_seeds
from app.training.verdicts import Row, csv_table, read_csv, rows_of
from app.training.verdicts import markdown as markdown_of_rows


def psnrs(ahead: float, seeds: int = 1, noise: float = 0.1, images: int = 30) -> HeldOut:
    """PSNRs whose differences to those with ahead = 0 and noise = 0 are normal about `ahead`."""
    base = np.random.default_rng(0).uniform(22, 34, images)
    rng = np.random.default_rng(1)
    return {
        s: {str(i): float(v) for i, v in enumerate(base + ahead + noise * rng.standard_normal(images))}
        for s in range(seeds)
    }


def test_a_difference_far_smaller_than_the_spread_of_images_is_found():
    """Images differ by 12 dB, methods by 0.1: only pairs tell them apart."""
    test = over_images(psnrs(0.1), psnrs(0, noise=0))
    assert test is not None
    assert test.verdict == HOLDS
    assert test.difference == pytest.approx(0.1, abs=0.05)
    assert test.error == pytest.approx(0.1 / math.sqrt(30), rel=0.4)
    reverse = over_images(psnrs(0, noise=0), psnrs(0.1))
    assert reverse is not None
    assert (reverse.verdict, reverse.p) == (FAILS, pytest.approx(test.p))


@pytest.mark.parametrize("ahead", [0.0, 0.003, -0.003])
def test_what_chance_makes_is_undecided(ahead):
    test = over_images(psnrs(ahead), psnrs(0, noise=0))
    assert test is not None
    assert test.verdict == UNDECIDED


def test_equal_models_are_undecided_unless_a_margin_is_claimed():
    same = psnrs(0, noise=0)
    equal, within = over_images(same, same), over_images(same, same, margin=0.05)
    assert equal is not None and within is not None
    assert (equal.verdict, equal.p) == (UNDECIDED, 1)
    assert within.verdict == HOLDS
    worse = over_images(psnrs(-0.2), same, margin=0.05)
    assert worse is not None
    assert worse.verdict == FAILS


def test_seeds_that_disagree_decide_nothing():
    first, second = psnrs(0, noise=0), psnrs(0, noise=0)
    first[1] = {i: v + 1.0 for i, v in first[0].items()}
    second[1] = dict(second[0])
    first[0] = {i: v - 0.1 for i, v in first[0].items()}
    test = over_images(first, second)
    assert test is not None
    assert test.p < 1e-6
    assert test.verdict == UNDECIDED
    assert test.spread == pytest.approx(1.1 / math.sqrt(2))


def test_only_seeds_and_images_that_both_have_are_paired():
    first, second = psnrs(0.5, seeds=3), psnrs(0, seeds=2)
    del second[1]["7"]
    test = over_images(first, second)
    assert test is not None
    assert (test.seeds, test.images) == (2, 29)
    assert over_images({0: {"a": 1.0}}, {1: {"a": 1.0}}) is None


def test_computations_are_compared_seed_by_seed():
    test = over_seeds({0: 100, 1: 210, 2: 390}, {0: 200, 1: 400, 2: 800})
    assert test is not None
    assert test.verdict == HOLDS
    assert math.exp(test.difference) == pytest.approx(0.504, abs=0.01)
    two = over_seeds({0: 100, 1: 200}, {0: 200, 1: 401})
    assert two is not None
    assert two.verdict == UNDECIDED
    assert math.isnan(two.p)


def test_computations_to_a_psnr_are_linear_between_validations():
    course = ((100.0, 20.0), (200.0, 24.0), (300.0, 23.0), (400.0, 26.0))
    assert computations_to(22, course) == 150
    assert computations_to(19, course) == 100
    assert computations_to(25, course) == pytest.approx(300 + 100 * 2 / 3)
    assert computations_to(27, course) is None


def run(seed: int, held_out: dict[str, float], *course: tuple[float, float]) -> Outcome:
    return Outcome(
        validation_psnr=course[-1][1], training_psnr=0, kernel_error=None, computations=course[-1][0], seconds=1,
        steps=1, certified=1, seed=seed, held_out=held_out, course=course,
    )  # fmt: skip


def comparison(*claims: Claim, reach: float | None = None) -> Comparison:
    labels = ("A", "B", "C", "D")
    return Comparison(
        name="x",
        about="letters",
        variants={label: Config() for label in labels},
        seeds=(0,),
        claims=claims,
        reach=reach,
    )


def claim(better: str, *than: str, measure: str = PSNR, against: str = "best") -> Claim:
    return Claim(text="it is so", source="a paper", better=better, than=than, measure=measure, against=against)


def test_a_claim_is_held_against_the_best_of_several_or_the_worst():
    ends = {"A": 0.3, "B": 0.2, "C": -1.0}
    outcomes = {k: [run(s, psnrs(v, noise=0.01 * s)[0], (100, 25 + v)) for s in range(2)] for k, v in ends.items()} | {
        "D": []
    }
    found = rows_of(
        comparison(claim("A", "C", "B"), claim("B", "A", "C", against=WORST), claim("A", "D")), outcomes
    )  # fmt: skip
    assert [row.verdict for row in found] == [HOLDS, HOLDS, "could not be tested: D diverged"]
    assert found[0].found.startswith("A - B: +0.1")
    assert "n = 30" in found[0].found
    assert "2 seeds: ± 0.0" in found[0].found
    assert found[1].found.startswith("B - C: +1.2")
    assert {row.setting for row in found} == {"letters"}


def test_computations_go_to_the_psnr_that_is_asked_for_or_where_the_other_ended():
    images = psnrs(0)[0]
    courses = {
        "A": ((100, 24), (200, 26)),
        "B": ((200, 24), (400, 26)),
        "C": ((300, 20), (900, 23)),
        "D": ((9, 25), (90, 25)),
    }
    outcomes = {
        k: [run(s, images, *((c * (1 + 0.01 * s * (k == "A")), p) for c, p in course)) for s in range(3)]
        for k, course in courses.items()
    }
    to_end, against_c, never = rows_of(
        comparison(
            claim("A", "B", measure=COMPUTATIONS), claim("A", "C", measure=COMPUTATIONS),
            claim("D", "B", measure=COMPUTATIONS),
        ), outcomes,
    )  # fmt: skip
    assert to_end.found.startswith("computations to 25.95 dB, A / B: 0.5")
    assert to_end.verdict == HOLDS
    assert against_c.found.startswith("computations to 22.95 dB, A / C: 0.11")
    assert "D did not get there with 3 of 3 seeds" in never.found
    assert never.verdict == UNDECIDED, "it counts with all it has spent, which is less than what it needs"
    (asked,) = rows_of(comparison(claim("B", "A", "C", measure=COMPUTATIONS), reach=25.0), outcomes)
    assert asked.found.startswith("computations to 25.00 dB, B / A: 1.9")
    assert asked.verdict == FAILS
    (bound,) = rows_of(comparison(claim("A", "C", measure=COMPUTATIONS), reach=25.0), outcomes)
    assert "C did not get there with 3 of 3 seeds" in bound.found
    assert bound.verdict == HOLDS, "C needs even more than it has spent"


def test_the_table_tells_who_did_not_get_there():
    outcomes = {"A": [run(0, {}, (100, 26))], "B": [run(0, {}, (100, 24))]}
    reached = {
        k: [Outcome(**{**vars(r), "reached": computations_to(25, r.course)}) for r in v] for k, v in outcomes.items()
    }
    head, _, a, b = markdown(reached, 25.0).splitlines()
    assert "| computations to 25 dB |" in head
    assert "| 100 | 100 |" in a
    assert "| not reached | 100 |" in b


def test_rows_are_read_back_as_they_were_written():
    rows = [Row(claim='a, "b" | c', source="s", setting="t\nu", found="", verdict=HOLDS)]
    assert read_csv(csv_table(rows)) == rows
    assert markdown_of_rows(rows).splitlines()[-2].startswith(r'| a, "b" \| c | s |')
