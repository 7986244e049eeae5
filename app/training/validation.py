"""Held-out quality of a model while it is trained: mean PSNR on centre crops, solved from scratch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from app import assemble
from app.evaluation.simulation import simulation
from app.lower.solution import NonFiniteError
from app.models.build import Model
from app.problem.quality import psnr
from app.processes import ALONE, Processes
from app.settings.options import Config
from app.settings.tasks import Inpaint
from datasets.image_sets import ImageSet, names_of
from datasets.images import read_image
from datasets.patches import centre_crop, whole_blocks

TOGETHER = 8  # images that are solved as one batch


def validate(config: Config, model: Model, held_out: ImageSet, data_root: Path, processes: Processes = ALONE) -> float:
    """Return the mean PSNR in dB over the noise levels that are validated. The processes share the images out."""
    levels = assemble.noise_levels(config).validated
    return fmean(validate_at(level, config, model, held_out, data_root, processes) for level in levels)


def validate_at(
    level: float, config: Config, model: Model, held_out: ImageSet, data_root: Path, processes: Processes = ALONE
) -> float:
    """Return the mean PSNR in dB on centre crops of the held-out images. Raises NonFiniteError."""
    return fmean(_psnr_of_images(level, config, model, held_out, data_root, processes))


def validate_images(config: Config, model: Model, held_out: ImageSet, data_root: Path) -> dict[str, float]:
    """Return the PSNR in dB of every held-out image by its name, the mean over the noise levels that are validated.
    The noise of an image follows from run.seed and its place: methods with one seed meet the same noise. Raises
    NonFiniteError."""
    levels = assemble.noise_levels(config).validated
    columns = [_psnr_of_images(level, config, model, held_out, data_root) for level in levels]
    return {name: fmean(values) for name, *values in zip(names_of(held_out.paths), *columns, strict=True)}


def _psnr_of_images(
    level: float, config: Config, model: Model, held_out: ImageSet, data_root: Path, processes: Processes = ALONE
) -> list[float]:
    """Return the PSNR in dB on the centre crop of each held-out image, solved to the final accuracy. Raises
    NonFiniteError."""
    config = replace(config, problem=replace(config.problem, noise_level=level))
    simulated = simulation(config, model.at(level), data_root, dict(enumerate(held_out.paths)))
    groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for i, path in enumerate(held_out.paths):
        crop = read_image(path, config.data.color)
        if not (isinstance(config.problem, Inpaint) and config.problem.mask):  # masks are of whole images
            crop = centre_crop(crop, config.data.validation_crop)
        crop = whole_blocks(crop, simulated.measuring.multiple)
        groups.setdefault(crop.shape, []).append((i, crop))
    parts = [group[n : n + TOGETHER] for group in groups.values() for n in range(0, len(group), TOGETHER)]

    def quality(part: list[tuple[int, Tensor]]) -> Tensor:  # -> (B,)
        images = tuple(i for i, _ in part)
        clean = simulated.to_device(torch.stack([crop for _, crop in part]))
        x = simulated(simulated.measure(clean, images), images, clean.shape[1:]).x
        return psnr(simulated.seen_in(x), simulated.seen_in(clean)).cpu()

    found: dict[int, Tensor] | NonFiniteError
    try:  # where theta has left the range of numbers, all processes must hear of it, also one that has no part
        found = {n: quality(parts[n]) for n in processes.own_part([sum(c.numel() for _, c in part) for part in parts])}
    except NonFiniteError as error:
        found = error
    values: dict[int, Tensor] = {}
    for of_rank in processes.objects(found):
        if isinstance(of_rank, NonFiniteError):
            raise of_rank
        values |= of_rank
    by_image = {i: float(v) for n, part in enumerate(parts) for (i, _), v in zip(part, values[n], strict=True)}
    return [by_image[i] for i in range(len(by_image))]
