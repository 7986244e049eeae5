"""What evaluations say about a model, for its card."""

from dataclasses import asdict
from statistics import fmean
from typing import Any

from app.evaluation.evaluate import Evaluation
from app.models.card import Assessment, blur_text
from app.settings.tasks import Problem
from figures.table import standard_error


def assess(
    images: str, problem: Problem, accuracy: float, rows: list[Evaluation], bounds: tuple[float, float], hardware: str
) -> dict[str, Any]:
    """An Assessment for the facts of a file. bounds: (mu, L)."""
    psnr, ssim = [e.psnr for e in rows], [e.ssim for e in rows]
    return asdict(
        Assessment(
            images=images,
            count=len(rows),
            task=problem.task,
            noise_level=problem.level,
            kernel=blur_text(problem),
            psnr=fmean(psnr),
            psnr_error=standard_error(psnr),
            ssim=fmean(ssim),
            ssim_error=standard_error(ssim),
            psnr_degraded=fmean(e.psnr_degraded for e in rows),
            certified=sum(bool(e.converged) for e in rows),
            accuracy=accuracy,
            mu=bounds[0],
            largest=bounds[1],
            iterations=fmean(e.iterations or 0 for e in rows),
            seconds=fmean(e.seconds for e in rows),
            hardware=hardware,
        )
    )
