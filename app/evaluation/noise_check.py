"""Noise levels: what is estimated of a measurement, and what does not fit: a model at a level it was not learned at, an
image with other noise than is assumed.

Both are certified all the same: the certificate is about argmin h, whatever h assumes.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from app.evaluation.simulation import Simulation
from app.models.build import Model
from app.models.files import ModelError, load_model, shipped
from app.problem.mri import MriOperator
from app.problem.operators import TomographyOperator
from app.problem.tasks import MaskOperator
from app.scale import between
from app.settings.tasks import Denoise, Problem
from app.settings.toml import is_set
from datasets.files import printable
from regularizers.noise_levels import HIGHEST, LOWEST

MASK = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))  # of norm 6; removes what is linear in x or y
NORMAL = 0.67449  # median |n| of standard normal n
FACTOR, TEXTURE = 1.3, 10.5 / 255  # see warn_of_noise
ENOUGH = 100  # numbers that a median is taken of
OUTER = 0.1  # part of the frequencies


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The noise levels from `low` to `high` that a model was learned at; `other`: a shipped model for all, or ""."""

    low: float
    high: float
    other: str

    def fault(self, level: float) -> str:
        """Return what is to be said about the model at another level; "" where there is nothing."""
        if between(level, self.low, self.high):
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


def is_given(settings: list[str]) -> bool:
    """Tell whether the user's settings name the noise level."""
    return is_set("problem.noise_level", settings)


def at_estimated_level(
    simulated: Simulation, model: Model, problem: Problem, y: Tensor, image: int
) -> tuple[Simulation, str]:  # y (1, ...)
    """Return what reconstructs a measurement whose noise level nobody told, and a line that tells the level.

    A model for many levels is set to the estimate, or to the nearest level that it knows; another keeps its own.
    """
    found = estimated_level(simulated, y, image)
    if not found >= 0:
        return simulated, f"noise level cannot be estimated: {problem.level:.3g} is assumed (--noise-level)"
    told = f"noise level estimated: {found:.3g}"
    if not model.regularizer.noise_nodes:
        return simulated, f"{told}; the model keeps its own, {problem.level:.3g}"
    level = min(max(found, LOWEST), HIGHEST)
    told += "" if level == found else f"; the model is set to {level:.3g}, the nearest that it knows"
    return replace(simulated, regularizer=model.at(level).regularizer, noise_level=level), told


def estimated_level(simulated: Simulation, y: Tensor, image: int) -> float:  # (1, ...)
    """Return the noise level of what was measured of an image, NaN where too little of it tells one."""
    operator = simulated.measuring(simulated.measuring.image_shape(y.shape[1:]), (image,))
    match operator:
        case MriOperator():
            return noise_of_frequencies(y, operator.mask)
        case TomographyOperator():
            return noise_of_rays(y)
        case MaskOperator():
            return estimated_noise(y, operator.mask)
    return estimated_noise(y)


def noise_of_frequencies(y: Tensor, mask: Tensor) -> float:  # (1, 2, [coils,] H, W), (1, 1, H, W)
    """Return sigma of the tenth of the measured frequencies that is farthest from DC, where an image has the least: the
    median of |numbers|. What is exactly 0 was not measured. NaN where there are few."""
    measured = (mask[0, 0] != 0) & (y != 0).flatten(1, -3).any(1)[0]
    rows, columns = (torch.arange(n, device=y.device) / n - n // 2 / n for n in y.shape[-2:])
    distance = torch.hypot(rows[:, None], columns)[measured]
    if len(distance) < 10:
        return float("nan")
    numbers = y.flatten(1, -3)[0][:, measured][:, distance >= distance.quantile(1 - OUTER)]
    return float(numbers.abs().median()) / NORMAL if numbers.numel() >= ENOUGH else float("nan")


def noise_of_rays(y: Tensor) -> float:  # (1, 1, D, N)
    """Return sigma of the median of |second differences along the detector|, of rays that measured something."""
    differences = y[:, :, 2:] - 2 * y[:, :, 1:-1] + y[:, :, :-2]
    differences = differences[differences != 0] / 6**0.5
    return float(differences.abs().median()) / NORMAL if differences.numel() >= ENOUGH else float("nan")


def estimated_noise(y: Tensor, mask: Tensor | None = None) -> float:  # (B, C, H, W), (B, 1, H, W)
    """Return sigma of white noise: the median of |second differences in x and y| (Immerkaer, CVIU 1996, with the median
    of Donoho). Where y may be clipped, it is taken over pixels without black or white neighbours if there are enough.

    NaN for images below 3 x 3. mask: pixels that were measured; NaN where few of them lie together.
    """
    if min(y.shape[2:]) < 3:
        return float("nan")
    flat = y.flatten(0, 1)[:, None].float()
    differences = F.conv2d(flat, torch.tensor(MASK, device=y.device)[None, None] / 6)
    clipped = bool((flat >= 0).all() & (flat <= 1).all())
    inside = (F.max_pool2d(flat, 3, 1) < 1) & (F.max_pool2d(-flat, 3, 1) < 0) | (not clipped)
    known = torch.ones_like(inside)
    if mask is not None:  # -max(-m) = min(m)
        known = -F.max_pool2d(-mask.expand_as(y).flatten(0, 1)[:, None].float(), 3, 1) == 1
        if int(known.sum()) < ENOUGH:
            return float("nan")
    chosen = inside & known if (inside & known).sum() > 0.05 * known.sum() else known
    return float(differences[chosen].abs().median()) / NORMAL
