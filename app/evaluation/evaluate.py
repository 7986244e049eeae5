"""Held-out reconstruction: measure, solve to the certified accuracy, compare with the clean image."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.evaluation.simulation import Simulation
from app.lower.solution import norm
from app.problem.quality import psnr, ssim
from datasets.image_sets import names_of


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One image: quality, certificate and cost. None stands where a method certifies nothing."""

    image: str  # its path within its set
    psnr: float
    ssim: float | None  # None of an image smaller than the window
    psnr_degraded: float
    ssim_degraded: float | None
    error_bound: float | None  # certified ||x - argmin h||
    converged: bool | None  # error_bound <= the accuracy asked for
    iterations: int | None  # gradients of h, and preconditioners
    seconds: float
    relative_bound: float | None = None  # error_bound / ||x||
    lpips: float | None = None  # None where no package computes it
    parameters: int | None = None  # learned numbers of the method; None of classical ones
    training: float | None = None  # seconds that it was trained, as its file says; None where it does not


Baseline = Callable[[Tensor, int], Tensor]  # y (1, ...), position of the image in its set -> x (1, C, h, w)
Distance = Callable[[Tensor, Tensor], float]  # between two images (1, C, H, W)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A measurement and the clean image that belongs to it."""

    reconstruct: Simulation
    y: Tensor  # (1, ...)
    shape: torch.Size  # (C, H, W) of the reconstruction
    clean: Tensor  # (1, C, h, w), where it was measured


def evaluate(
    reconstruct: Simulation, paths: tuple[Path, ...], color: bool, baseline: Baseline | None = None,
    measured: Callable[[int, Tensor], Pair] | None = None, distance: Distance | None = None,
    parameters: int | None = None, own: Sequence[int] | None = None,
) -> Iterator[Evaluation]:  # fmt: skip
    """Yield one row per image, whole images, in order; of a baseline, where one is given, on the same measurements.
    measured: (position, clean image) -> the pair that files make; None: images are measured here.  distance: LPIPS.
    parameters: how many numbers the method has learned.  own: positions of the images that are evaluated; None: all.
    Images, a method and what is known of both are as many parameters."""
    names, positions = names_of(paths), range(len(paths)) if own is None else own
    for i in positions:
        path, name = paths[i], names[i]
        clean = reconstruct.read(path, color)
        if i == positions[0]:
            for r, x in ((reconstruct.regularizer, clean), (reconstruct.regularizer.promoted(), clean.double())):
                r.frozen().gradient(x)  # compiles what is compiled at first use, for the solve and its certificate
        if measured is None:
            y, shape, clean = reconstruct.measure(clean, (i,)), clean.shape[1:], reconstruct.seen_in(clean)
        else:
            pair = measured(i, clean)
            reconstruct, y, shape, clean = pair.reconstruct, pair.y, pair.shape, pair.clean
        start, bound, relative, converged, iterations = time.perf_counter(), None, None, None, None
        if baseline is None:
            solution = reconstruct(y, (i,), shape)
            x, bound = reconstruct.seen_in(solution.x), float(solution.error_bound)
            relative = bound / max(float(norm(solution.x)), 1e-300)
            converged, iterations = bool(solution.converged), int(solution.iterations)
        else:
            x = baseline(y, i)
            if x.is_cuda:  # the device may still be at work
                torch.cuda.synchronize(x.device)
        seconds = time.perf_counter() - start
        degraded = reconstruct.seen_in(reconstruct.as_image(y, (i,), shape))
        yield Evaluation(
            image=name, psnr=float(psnr(x, clean)), ssim=_known(ssim(x, clean)),
            psnr_degraded=float(psnr(degraded, clean)), ssim_degraded=_known(ssim(degraded, clean)),
            error_bound=bound, converged=converged, iterations=iterations, seconds=seconds,
            relative_bound=relative, lpips=distance and distance(x, clean), parameters=parameters,
        )  # fmt: skip


def _known(quality: Tensor) -> float | None:  # (1,)
    return None if quality.isnan() else float(quality)
