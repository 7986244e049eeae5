"""What the papers claim of their examples, and what is found here.

A rate is read off the course of a run: a value v that falls like K^-q loses q digits from K to 10 K, one that falls
linearly as many digits in each third of the run. So of the digits lost in the last two thirds

    last / middle  =  log(3 / 2) / log 2  =  0.58  for every power,    1  for a linear rate.
"""

from dataclasses import dataclass

from torch import Tensor

from app.training.paired import FAILS, HOLDS
from app.training.verdicts import Row
from scripts.toys.moreau import EXAMPLES, Course
from scripts.toys.ravines import KINDS, RAVINES

LINEAR = 0.8  # of last / middle
NEAR = 10.0  # times what the authors' code printed
SLACK = 0.05  # of an exponent
REACHED = 0.05  # of the first distance
GD_POLYAK, MEHA = "arXiv 2409.19791", "arXiv 2405.09927"
OURS = "app/lower/polyak.py"
PRINTED = {"rosenbrock": (5000, 1.02e-27), "sensing": (15000, 3.30e-20), "neurons": (2000, 2.95e-17)}  # gradients, f


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the page."""

    claim: str
    source: str
    setting: str
    found: str
    holds: bool


def digits(values: Tensor) -> tuple[float, float]:  # (K,)
    """Return how many digits are lost in the middle third and in the last."""
    n = len(values)
    a, b, c = (float(values[i].log10()) for i in (n // 3 - 1, 2 * n // 3 - 1, n - 1))
    return a - b, b - c


def exponent(values: Tensor) -> float:  # (K,)
    """Return q of the smallest value so far, falling like K^-q over the last decade."""
    least = values.cummin(0).values
    return float((least[len(values) // 10 - 1] / least[-1]).log10())


def of_ravines(falls: dict[str, dict[str, Tensor]]) -> list[Claim]:
    """Return what is claimed of GDPolyak: {example: {method: f - min f before each gradient}}."""
    claims = []
    for name, by in falls.items():
        ravine = RAVINES[name]()
        setting = f"{name}, step {ravine.step:g}, K = {ravine.short}, I = {ravine.epochs}"
        for kind in (KINDS[2], KINDS[3], KINDS[0]):
            middle, last = digits(by[kind])
            told = f"{middle:.1f}, then {last:.1f} digits, f = {float(by[kind][-1]):.2g}"
            linear = kind != KINDS[0]
            holds = last >= LINEAR * middle > 0 if linear else last < LINEAR * middle
            rate = "falls linearly" if linear else "falls like a power"
            source = OURS if kind == KINDS[3] else GD_POLYAK
            claims.append(Claim(claim=f"{kind} {rate}", source=source, setting=setting, found=told, holds=holds))
        after, printed = PRINTED[name]
        ours = float(by[KINDS[2]][after - 1])
        claims.append(Claim(
            claim=f"{KINDS[2]} reaches f = {printed:.2g} at gradient {after}", source=f"public code of {GD_POLYAK}",
            setting=setting, found=f"{ours:.3g}", holds=printed / NEAR <= ours <= printed * NEAR,
        ))  # fmt: skip
    return claims


def of_moreau(courses: dict[str, Course]) -> list[Claim]:
    """Return what is claimed of MEHA on its examples."""
    claims = []
    for name, course in courses.items():
        example = EXAMPLES[name]()
        setting, p = f"{name}: {example.setting}, {len(course.distance)} iterations", example.p
        rates = [
            ("min R falls like K^(p - 1/2)", course.residual, 0.5 - p),
            ("the least distance of w to w* falls like K^(-1/2)", course.lag, 0.5),
        ]
        for claim, values, least in rates if p >= 0 else []:
            found, holds = exponent(values), exponent(values) >= least - SLACK
            claims.append(Claim(claim=claim, source=MEHA, setting=setting, found=f"K^{-found:.2f}", holds=holds))
        left = float(course.distance[-1])
        claims.append(Claim(
            claim=f"the known solution is reached up to {100 * REACHED:g} %", source=MEHA, setting=setting,
            found=f"{100 * left:.2g} % of the first distance", holds=left < REACHED,
        ))  # fmt: skip
    return claims


def rows(claims: list[Claim]) -> list[Row]:
    """Return one line of a page for each claim."""
    return [
        Row(claim=c.claim, source=c.source, setting=c.setting, found=c.found, verdict=HOLDS if c.holds else FAILS)
        for c in claims
    ]
