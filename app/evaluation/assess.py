"""What evaluations say about a model, for its card."""

from dataclasses import asdict
from statistics import fmean
from typing import Any

from app.evaluation.evaluate import Evaluation
from app.models.card import Assessment, kernel
from app.settings.options import Problem
from figures.table import standard_error


def assess(
    images: str, problem: Problem, accuracy: float, rows: list[Evaluation], bounds: tuple[float, float], hardware: str
) -> dict[str, Any]:
    """An Assessment for the facts of a file. bounds: (mu, L)."""
    psnr, ssim = [e.psnr for e in rows], [e.ssim for e in rows]
    return asdict(
        Assessment(
            images, len(rows), problem.task, problem.noise_level, kernel(problem),
            fmean(psnr), standard_error(psnr), fmean(ssim), standard_error(ssim), fmean(e.psnr_degraded for e in rows),
            sum(bool(e.converged) for e in rows), accuracy, *bounds, fmean(e.iterations or 0 for e in rows),
            fmean(e.seconds for e in rows), hardware,
        )
    )  # fmt: skip
