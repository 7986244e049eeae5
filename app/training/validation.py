"""Held-out quality of a model while it is trained: mean PSNR on centre crops, solved from scratch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from app import assemble
from app.evaluation.simulation import simulation
from app.models.build import Model
from app.problem.quality import psnr
from app.settings.options import Config
from datasets.image_sets import ImageSet
from datasets.images import read_image
from datasets.patches import centre_crop, whole_blocks

TOGETHER = 8  # images that are solved as one batch


def validate(config: Config, model: Model, held_out: ImageSet, data_root: Path) -> float:
    """Return the mean PSNR in dB over the noise levels that are validated."""
    levels = assemble.noise_levels(config).validated
    return fmean(validate_at(level, config, model, held_out, data_root) for level in levels)


def validate_at(level: float, config: Config, model: Model, held_out: ImageSet, data_root: Path) -> float:
    """Return the mean PSNR in dB on centre crops of the held-out images, solved to the final accuracy."""
    config = replace(config, problem=replace(config.problem, noise_level=level))
    simulated = simulation(config, model.at(level), data_root, dict(enumerate(held_out.paths)))
    groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for i, path in enumerate(held_out.paths):
        crop = centre_crop(read_image(path, config.data.color), config.data.validation_crop)
        crop = whole_blocks(crop, simulated.measuring.multiple)
        groups.setdefault(crop.shape, []).append((i, crop))
    values = []
    for group in groups.values():
        for part in (group[n : n + TOGETHER] for n in range(0, len(group), TOGETHER)):
            images = tuple(i for i, _ in part)
            clean = simulated.to_device(torch.stack([crop for _, crop in part]))
            x = simulated(simulated.measure(clean, images), images, clean.shape[1:]).x
            values.append(psnr(simulated.seen_in(x), simulated.seen_in(clean)))
    return float(torch.cat(values).mean())
