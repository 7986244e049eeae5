"""The noise levels a run learns from: one per mini-batch, all parts of [low, high] equally often.

    sigma_k = low (high / low)^(u_k),    u_k = u_0 + k (5^(1/2) - 1) / 2  mod 1,    u_0 uniform from the seed.

Any n steps in a row have their u_k spread over [0, 1) in gaps of at most three lengths, of order 1 / n (Weyl's sequence
for the golden ratio), where independent draws would leave gaps of order log(n) / n.

The loss of a batch is divided by the squared error that is typical of its level, relative to that at the middle
(low high)^(1/2). So the objective is, up to constants, the mean over levels of squared errors in units of what can be
reached, whose gradient is that of the mean PSNR where all levels are typical; without it, 50/255 would drown 5/255.
"""

from dataclasses import dataclass

import torch

from datasets.random import LEVELS, generator

GOLDEN = (5**0.5 - 1) / 2
# Squared errors of certified reconstructions go like sigma^EXPONENT: measured from 5 to 50 / 255 they grew 19-fold.
EXPONENT = 1.25
USUAL = (15 / 255, 25 / 255, 50 / 255)  # levels that the literature reports


@dataclass(frozen=True)
class NoiseLevels:
    """One level, or all between a low and a high one; the sequence belongs to the seed."""

    low: float
    high: float
    seed: int

    def at(self, step: int) -> float:
        """Return the level sigma_k of a step."""
        if self.low == self.high:
            return self.low
        start = float(torch.rand((), generator=generator(self.seed, LEVELS), dtype=torch.float64))
        return self.low * (self.high / self.low) ** ((start + step * GOLDEN) % 1)

    def relative(self, level: float) -> float:
        """Return sigma / (low high)^(1/2)."""
        return 1.0 if self.low == self.high else level / (self.low * self.high) ** 0.5

    def weight(self, level: float) -> float:
        """Return the weight of the loss of a batch at this level."""
        return self.relative(level) ** -EXPONENT

    @property
    def validated(self) -> tuple[float, ...]:
        """The levels at which held-out images are reconstructed: the usual ones within the range, or its middle."""
        if self.low == self.high:
            return (self.low,)
        return tuple(s for s in USUAL if self.low <= s <= self.high) or ((self.low * self.high) ** 0.5,)
