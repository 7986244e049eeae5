"""Noise levels that do not fit: a model at a level it was not learned at, an image with other noise than is assumed.

Both are certified all the same: the certificate is about argmin h, whatever h assumes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from app.models.files import ModelError, load_model, shipped
from app.settings.tasks import Denoise, Problem
from datasets.files import printable

SAME = 0.05  # relative; 25/255 and 0.1 are the same
MASK = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))  # of norm 6; removes what is linear in x or y
NORMAL = 0.67449  # median |n| of standard normal n
FACTOR, TEXTURE = 1.3, 10.5 / 255  # see warn_of_noise


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The noise levels from `low` to `high` that a model was learned at; `other`: a shipped model for all, or ""."""

    low: float
    high: float
    other: str

    def fault(self, level: float) -> str:
        """Return what is to be said about the model at another level; "" where there is nothing."""
        if self.low * (1 - SAME) <= level <= self.high * (1 + SAME):
            return ""
        known = f"{255 * self.low:.4g}/255" + (f" to {255 * self.high:.4g}/255" if self.high > self.low else "")
        hint = f"; {self.other} is for all levels" if self.other else ""
        return f"was learned at noise level {known} and is used at {255 * level:.4g}/255{hint}"


def learned_levels(spec: str) -> Learned | None:
    """Return the levels of a model of a run. None for one that knows which levels it is for, or was saved without a
    configuration."""
    try:
        _, config = load_model(spec)
    except ModelError:
        return None
    if getattr(config.regularizer, "noise_nodes", 0):
        return None
    end = f"-{config.problem.task}-{'color' if config.data.color else 'grey'}-all"
    low, high = config.problem.levels
    return Learned(low=low, high=high, other=next((name for name in shipped() if name.endswith(end)), ""))


def warn_of_level(spec: str, problem: Problem) -> None:
    """Print one line on stderr where a model is used at another noise level than it was learned at."""
    learned = learned_levels(spec)
    if learned and (fault := learned.fault(problem.level)):
        print(f"warning: {printable(spec)} {fault}", file=sys.stderr)


def warn_of_noise(path: Path, y: Tensor, problem: Problem) -> None:  # y (B, C, H, W)
    """Print one line on stderr where the noise of an image to be denoised is not what is assumed.

    They disagree if the estimate is below sigma / FACTOR or above ((FACTOR sigma)^2 + TEXTURE^2)^(1/2): fine texture is
    taken for noise. On 200 images of BSDS500 at 15, 25 and 50 / 255, clipped and rounded to 8 bit, the estimate was
    0.83 to 1.24 times sigma, at 5 / 255 up to 2.4 times, and up to 10.4 / 255 without noise.
    """
    if not isinstance(problem, Denoise):
        return
    sigma, found = problem.level, estimated_noise(y)
    if found < sigma / FACTOR or found > ((FACTOR * sigma) ** 2 + TEXTURE**2) ** 0.5:
        levels = f"{255 * found:.2g}/255 was estimated, {255 * sigma:.4g}/255 is assumed (--noise-level)"
        print(f"warning: {printable(path)}: noise of about {levels}", file=sys.stderr)


def estimated_noise(y: Tensor) -> float:  # (B, C, H, W)
    """Return sigma of white noise: the median of |second differences in x and y| (Immerkaer, CVIU 1996, with the median
    of Donoho), over pixels without black or white neighbours where there are enough. NaN for images below 3 x 3."""
    if min(y.shape[2:]) < 3:
        return float("nan")
    flat = y.flatten(0, 1)[:, None].float()
    differences = F.conv2d(flat, torch.tensor(MASK, device=y.device)[None, None] / 6)
    inside = (F.max_pool2d(flat, 3, 1) < 1) & (F.max_pool2d(-flat, 3, 1) < 0)
    chosen = differences[inside] if inside.float().mean() > 0.05 else differences.flatten()
    return float(chosen.abs().median()) / NORMAL
