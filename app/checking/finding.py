"""What a check has found: a number that was measured, and the limit that it must keep.

A relative difference of sqrt(eps), half the digits of a type of number, is 1.5e-8 in float64 and 3.5e-4 in float32: a
sum of many filter responses loses fewer digits than that, and a fault is rarely so small.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor

SMALL = 1e-2  # of the longest tensor: a shorter one, which has lost digits, is compared as if it were so long


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row: measured <= limit, or >= where `at_least`. None: nothing was there to measure, and `note` says why."""

    what: str = ""
    measured: float | None
    limit: float = 0.0
    at_least: bool = False
    note: str = ""

    @property
    def passed(self) -> bool:
        """Tell whether the limit is kept; what is no number keeps none."""
        if self.measured is None:
            return True
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


Rows = dict[str, Callable[[], Finding]]  # what is to be looked at, by name


def looked_at(what: str, look: Callable[[], Finding]) -> Finding:
    """Return what was found under this name. What raises has failed: code of one's own may raise anything."""
    try:
        return replace(look(), what=what)
    except Exception as error:
        return Finding(what=what, measured=nan, note=f"{type(error).__name__}: {' '.join(str(error).split())}")


def rounding(dtype: torch.dtype) -> float:
    """Return the relative difference that rounding may make in this type of number."""
    return torch.finfo(dtype).eps ** 0.5


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:  # (...)
    """Return the largest ||a - b|| / ||b|| of all pairs of tensors, in the finer type of each."""
    norms = [float(b.norm()) for b in expected]
    least = max(SMALL * max(norms), torch.finfo(torch.float64).tiny)
    pairs = zip(found, expected, norms, strict=True)
    return max(float((a.to(torch.promote_types(a.dtype, b.dtype)) - b).norm()) / max(n, least) for a, b, n in pairs)


def table(findings: Sequence[Finding]) -> str:
    """Return one row per finding, in columns, and what they come to."""
    width, rows = max(len(f.what) for f in findings), []
    for f in findings:
        relation, result = ">=" if f.at_least else "<=", "pass" if f.passed else "FAIL"
        numbers = f"{f.measured:9.3g} {relation} {f.limit:<8.3g} {result}" if f.measured is not None else f"{'-':>9}"
        rows.append(f"{f.what:{width}}  {numbers}  {f.note}".rstrip())
    failed = sum(not f.passed for f in findings)
    return "\n".join([*rows, "", f"{failed} of {len(findings)} checks failed" if failed else "all checks passed"])
