"""Paired tests: is what two methods differ in more than chance?

    d_i = mean over seeds s of  psnr_is(first) - psnr_is(second)             image i, the same noise for both
    r_s = log c_s(first) - log c_s(second)                                    computations c of seed s

Wilcoxon's signed-rank test (1945) asks whether d_i + margin lies around zero, Student's paired t-test whether r_s does.
Both are two-sided at LEVEL. A test over images says nothing about another training: where several seeds were trained,
all must agree in the sign, and their spread is told beside.
"""

from dataclasses import dataclass
from math import nan
from statistics import fmean, stdev

import numpy as np
from scipy.stats import ttest_1samp, wilcoxon

from figures.table import standard_error

LEVEL = 0.05  # of a single test; claims are not corrected for their number
FEWEST = 3  # seeds that a test over seeds needs
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"

HeldOut = dict[int, dict[str, float]]  # seed -> image -> PSNR in dB


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A difference of two methods, and what a test says of it."""

    difference: float  # first - second: dB, or of logarithms
    error: float  # standard error of it over images (of logarithms: over seeds)
    images: int  # 0 of a test over seeds
    seeds: int
    spread: float | None  # standard deviation of the difference over the seeds, None of one seed
    p: float  # two-sided; NaN of fewer than FEWEST seeds, which no test can tell from chance
    verdict: str


def over_images(first: HeldOut, second: HeldOut, margin: float = 0.0) -> Paired | None:
    """Test whether the first is better than the second less the margin, in dB, on the images and seeds that both have;
    None where there are none."""
    seeds = sorted(first.keys() & second.keys())
    images = sorted(set.intersection(*({*first[s]} & {*second[s]} for s in seeds))) if seeds else []
    if not images:
        return None
    d = np.array([[first[s][i] - second[s][i] for i in images] for s in seeds])  # (seeds, images)
    of_images, of_seeds = d.mean(0), d.mean(1)
    p, sign = _wilcoxon(of_images + margin)
    signs = {sign, float(np.sign(d.mean() + margin)), *np.sign(of_seeds + margin).tolist()}
    return Paired(
        difference=float(d.mean()), error=standard_error(of_images.tolist()), images=len(images), seeds=len(seeds),
        spread=_spread(of_seeds.tolist()), p=p, verdict=_verdict(p, signs),
    )  # fmt: skip


def over_seeds(first: dict[int, float], second: dict[int, float]) -> Paired | None:
    """Test whether the first needs fewer computations than the second, seed by seed, in logarithms; None where no seed
    has both. `difference` is negative where it does."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    r = [float(np.log(first[s] / second[s])) for s in seeds]
    p = float(np.asarray(ttest_1samp(r, 0.0))[1]) if len(r) >= FEWEST and stdev(r) > 0 else nan
    return Paired(
        difference=fmean(r), error=standard_error(r), images=0, seeds=len(r), spread=_spread(r), p=p,
        verdict=_verdict(p, {-float(np.sign(fmean(r)))}),
    )  # fmt: skip


def _wilcoxon(d: np.ndarray) -> tuple[float, float]:  # (images,)
    """The two-sided p-value, 1 where all differences are zero, and the sign of the sum of signed ranks."""
    if not np.any(d):
        return 1.0, 0.0
    above, below = (float(np.asarray(wilcoxon(d, zero_method="pratt", alternative=a))[1]) for a in ("greater", "less"))
    return min(1.0, 2 * min(above, below)), float(np.sign(below - above))


def _spread(values: list[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _verdict(p: float, signs: set[float]) -> str:
    """A test decides where p is small and there is one sign: of ranks, of the mean and of the mean of every seed."""
    if not p < LEVEL or len(signs) > 1 or 0 in signs:
        return UNDECIDED
    return HOLDS if signs == {1.0} else FAILS
