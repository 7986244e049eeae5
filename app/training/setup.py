"""Everything a run needs, read and checked before anything is written."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from app import assemble
from app.lower.solution import NotStronglyConvexError
from app.lower.stationary import certified_or_stationary
from app.memory import usable_memory
from app.models.build import Model, build_model
from app.models.files import KERNEL, find_model, read_facts
from app.models.provenance import UNKNOWN, processor
from app.problem.problem import Problem
from app.problem.quality import psnr
from app.processes import ALONE, Processes
from app.settings.options import Config, ConfigError
from app.training.fit import batch_of, proven_modulus
from app.training.inputs import inputs
from app.training.pairs import patches_of
from app.training.run import Run, restore
from app.training.selection import Selection
from app.training.validation import TOGETHER, validate
from datasets.held_out import images_to_learn_from
from datasets.images import read_all, read_image

COPIES = 20  # images that a solver keeps of each patch at least: 11 of pairs, and its points and gradients


def prepare(config: Config, model: Model, folder: Path, data_root: Path, processes: Processes = ALONE) -> Run:
    """Return a run that is ready to begin. Raises ConfigError, ImageError, NoiseLevelError and
    NotStronglyConvexError."""
    device, dtype = assemble.device_of(config), assemble.dtype_of(config)
    problem = training_problem(config, data_root)
    held_out = images_to_learn_from("data.validation", config.data.validation, data_root, config.data.color)
    read_all(held_out.paths, lambda path: read_image(path, config.data.color))  # a bad one is found now
    method = assemble.method(config)
    if method.needs_finite_sum and not problem.patches.fixed:
        raise ConfigError(f"{config.upper.algorithm} works on a finite sum: set data.noise = fixed")
    if (images := method.images_per_step(len(problem))) < processes.count:
        key = "the number of training images" if method.full_batch else "upper.batch_size"
        raise ConfigError(f"{processes.count} processes cannot share the {images} images of a step: raise {key}")
    _check_memory(config, images)
    model = model.to(device, dtype)
    for level in (problem.noise_levels.low, problem.noise_levels.high):
        model.at(level)  # raises NoiseLevelError
    mu = proven_modulus(model, problem, images)
    if mu <= 0 and method.needs_convexity and not config.lower.uncertified:
        raise NotStronglyConvexError(mu)
    return Run(
        folder=folder, config=config, model=model, problem=problem, method=method,
        state=method.begin(problem.patches.fixed), selection=Selection(config.run.average, config.run.keep_best),
        solver=assemble.lower_solver(config), processes=processes,
        validate=partial(validate, config, model, held_out, data_root, processes),
        inputs=inputs(config, problem.patches, held_out.paths, data_root),
    )  # fmt: skip


def _check_memory(config: Config, count: int) -> None:
    """Refuse a step that this machine cannot hold, before it tries. Raises ConfigError."""
    pixels = count * config.data.patch_size**2 * (3 if config.data.color else 1)
    needed, there = pixels * assemble.dtype_of(config).itemsize, usable_memory()
    needed *= COPIES + getattr(config.upper, "iterations", 0)  # which unroll keeps, too
    if needed > there:
        raise ConfigError(
            f"a step on {count} patches of {config.data.patch_size} x {config.data.patch_size} pixels needs at least "
            f"{needed / 2**30:.0f} GiB, and this machine has {there / 2**30:.0f}: lower upper.batch_size or patch_size"
        )


def training_problem(config: Config, data_root: Path) -> Problem:
    """Return the problem that a run learns from, whose images can be read. Raises ConfigError and ImageError."""
    operators = assemble.operators(config, data_root, training=True)
    return Problem(
        operators, clean=patches_of(config, operators, data_root), noise_level=assemble.noise_levels(config),
        ridge=config.problem.ridge, loss=assemble.loss(config), noisy=config.data.targets == "noisy",
        seed=config.run.seed, device=assemble.device_of(config), dtype=assemble.dtype_of(config),
    )  # fmt: skip


def training_psnr(config: Config, folder: Path, data_root: Path) -> float:
    """Return the mean PSNR in dB of the reconstructions of all training patches (first visit) by the model of a run."""
    run = prepare(config, build_model(config), folder, data_root)
    restore(run)
    problem, values = run.problem, []
    solver = certified_or_stationary(run.solver)
    for step in range(math.ceil(len(problem) / TOGETHER)):
        sample = problem.sample(step, TOGETHER)
        energy = batch_of(run.model, sample, problem.ridge, run.solver).energy()
        solution = solver(energy, energy.start, config.lower.final_accuracy)
        values.append(psnr(*map(problem.operators.seen_in, (solution.x, sample.target))))
    return float(torch.cat(values)[: len(problem)].mean())


def ancestor(start: str) -> dict[str, Any]:
    """Return the provenance of the model that a run begins with, all of whose training came before."""
    if not start:
        return {}
    facts = {"commands": [UNKNOWN], **read_facts(find_model(start))}
    return facts | {"seconds_before": facts.get("seconds_before", 0.0) + facts.get("seconds", 0.0)}


def past(folder: Path) -> dict[str, Any]:
    """Return the provenance of a run so far; nothing where its model file is lost, which resuming writes anew."""
    try:
        return read_facts(folder / "model.safetensors")
    except (OSError, SafetensorError, ValueError):
        return {}


def provenance(past: dict[str, Any], command: str, run: Run) -> dict[str, Any]:
    """Return every command and machine that had a part in a run, the present ones last, and the time before its
    start."""
    machines = [*past.get("hardware", []), processor(run.problem.device)]
    return {
        "commands": [*past.get("commands", []), command],
        "hardware": list(dict.fromkeys(machines)),
        "seconds_before": past.get("seconds_before", 0.0),
    } | {key: files for key, files in run.inputs.items() if key == KERNEL}
