"""Everything a run needs, read and checked before anything is written."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError

from app import assemble
from app.lower.solution import NotStronglyConvexError
from app.lower.stationary import certified_or_stationary
from app.models.model import Model, build_model, find_model, read_facts
from app.models.provenance import UNKNOWN, processor
from app.problem.losses import psnr
from app.settings.options import Config, ConfigError
from app.training import train as training_loop
from app.training.noise_levels import NoiseLevels
from app.training.problem import TrainingProblem
from app.training.selection import Selection
from app.training.train import Training
from datasets.held_out import images_to_learn_from
from datasets.image_sets import ImageSet, subset
from datasets.images import read_image
from datasets.patches import Patches, centre_crop, whole_blocks

PART = 8  # images that are solved together where nothing else says how many


def training_psnr(config: Config, folder: Path, data_root: Path) -> float:
    """Mean PSNR in dB of the reconstructions of all training patches (first visit) by the model of a run."""
    training = prepare(config, build_model(config), folder, data_root)
    training_loop.restore(training)
    reconstruct = assemble.reconstructor(config, training.problem.model, data_root)
    whole, values = replace(training.problem, batch_size=PART), []
    for step in range(math.ceil(len(whole.patches) / PART)):
        batch, patches = whole.batch(step)
        energy = batch.energy()
        solution = reconstruct.solve(energy, energy.start, reconstruct.accuracy)
        values.append(psnr(solution.x, reconstruct.to_device(patches.clean)))
    return float(torch.cat(values)[: len(whole.patches)].mean())


def ancestor(start: str) -> dict[str, Any]:
    """The provenance of the model that a run begins with, all of whose training came before."""
    if not start:
        return {}
    facts = {"commands": [UNKNOWN], **read_facts(find_model(start))}
    return facts | {"seconds_before": facts.get("seconds_before", 0.0) + facts.get("seconds", 0.0)}


def past(folder: Path) -> dict[str, Any]:
    """The provenance of a run so far; nothing where its model file is lost, which resuming writes anew."""
    try:
        return read_facts(folder / "model.safetensors")
    except (OSError, SafetensorError, ValueError):
        return {}


def provenance(past: dict[str, Any], command: str, training: Training) -> dict[str, Any]:
    """Every command and machine that had a part in a run, the present ones last, and the time before its start."""
    machines = [*past.get("hardware", []), processor(training.problem.device)]
    return {
        "commands": [*past.get("commands", []), command],
        "hardware": list(dict.fromkeys(machines)),
        "seconds_before": past.get("seconds_before", 0.0),
    }


def prepare(config: Config, model: Model, folder: Path, data_root: Path) -> Training:
    """Read and check everything a run needs, before anything is written."""
    device, dtype = assemble.device_of(config), assemble.dtype_of(config)
    data, problem = config.data, config.problem
    if data.patch_size < config.regularizer.filter_size:
        raise ConfigError(f"data.patch_size = {data.patch_size} is smaller than the filters")
    patches = Patches(
        subset(images_to_learn_from("data.images", data.images, data_root, data.color), data.count),
        data.color,
        data.patch_size,
        config.run.seed,
        data.noise == "fixed",
        data.augment,
    )
    patches.load()
    held_out = images_to_learn_from("data.validation", data.validation, data_root, data.color)
    method = assemble.method(config)
    if method.needs_finite_sum and data.noise == "fresh":
        raise ConfigError(f"{config.upper.algorithm} works on a finite sum: set data.noise = fixed")
    model = model.to(device, dtype)
    levels, operators = _noise_levels(config), assemble.operator_factory(config, data_root, training=True)
    for level in (levels.low, levels.high):
        model.at(level)  # raises NoiseLevelError
    training_problem = TrainingProblem(
        model,
        patches,
        operators,
        levels,
        problem.ridge,
        method.images_per_step(len(patches)),
        device,
        dtype,
        certified_or_stationary(assemble.lower_solver(config)),
        problem.hold_kernel,
    )
    energy = training_problem.batch(0)[0].energy()
    mu, _ = energy.bounds
    if problem.learn_kernel:
        mu -= energy.operator.lambda_min  # that of another kernel may be 0
    if mu <= 0 and method.needs_convexity and not config.lower.uncertified:
        raise NotStronglyConvexError(mu)
    validate = partial(_validate, config, model, held_out, data_root)
    selection = Selection(config.run.average, config.run.keep_best)
    return Training(folder, config, training_problem, method, method.begin(data.noise == "fixed"), selection, validate)


def _noise_levels(config: Config) -> NoiseLevels:
    problem = config.problem
    low, high = (problem.noise_low, problem.noise_high) if problem.noise_low else (problem.noise_level,) * 2
    return NoiseLevels(low, high, config.run.seed)


def _validate(config: Config, model: Model, held_out: ImageSet, data_root: Path) -> float:
    """Mean PSNR over the noise levels that are validated."""
    return fmean(_validate_at(level, config, model, held_out, data_root) for level in _noise_levels(config).validated)


def _validate_at(level: float, config: Config, model: Model, held_out: ImageSet, data_root: Path) -> float:
    """Mean PSNR on centre crops of the held-out images, solved from scratch to the final accuracy."""
    config = replace(config, problem=replace(config.problem, noise_level=level))
    reconstruct = assemble.reconstructor(config, model.at(level), data_root)
    groups: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
    for i, path in enumerate(held_out.paths):
        crop = centre_crop(read_image(path, config.data.color), config.data.validation_crop)
        crop = whole_blocks(crop, reconstruct.enlargement)
        groups.setdefault(crop.shape, []).append((i, crop))
    values = []
    for group in groups.values():
        for part in (group[n : n + PART] for n in range(0, len(group), PART)):
            images = tuple(i for i, _ in part)
            clean = reconstruct.to_device(torch.stack([crop for _, crop in part]))
            values.append(psnr(reconstruct(reconstruct.measure(clean, images), images).x, clean))
    return float(torch.cat(values).mean())
