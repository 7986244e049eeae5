"""`train` and `resume`."""

import logging
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError

from app import assemble, transfer
from app.commands.figures.comparison import draw_comparison
from app.commands.figures.learned import draw_filters
from app.commands.figures.runs import draw_curves
from app.losses import psnr
from app.lower.solution import NOT_CERTIFIED, NonFiniteError, NotStronglyConvexError
from app.lower.stationary import certified_or_stationary
from app.models import Model, build_model, find_model, read_facts
from app.options import Config, ConfigError
from app.protocol import images_to_learn_from
from app.provenance import UNKNOWN, processor
from app.training import train as training_loop
from app.training.noise_levels import NoiseLevels
from app.training.problem import TrainingProblem
from app.training.selection import Selection
from app.training.train import Interrupted, Progress, Training
from app.upper.isgd import unmet_condition
from app.upper.method import State
from datasets.image_sets import ImageSet, find_images, subset
from datasets.images import read_image
from datasets.patches import Patches, centre_crop, whole_blocks
from figures.style import save
from regularizers import Adaptive, FieldOfExperts, Rescaled

log = logging.getLogger("app")

PART = 8  # images that are solved together where nothing else says how many


def train(config: Config, folder: Path, data_root: Path, quiet: bool, draw: bool = True, command: str = UNKNOWN) -> int:
    """`command` is what the user typed."""
    config, model = transfer.begin(config)
    training = _training(config, model, folder, data_root)
    training = replace(training, provenance=_provenance(_ancestor(config.regularizer.start), command, training))
    return _run(training, training_loop.begin(training), data_root, quiet, draw)


def resume(
    config: Config, folder: Path, data_root: Path, quiet: bool, draw: bool = True, command: str = UNKNOWN
) -> int:
    training = _training(config, build_model(config), folder, data_root)
    progress, past = training_loop.restore(training), _past(folder)
    training = replace(training, provenance=_provenance(past, command, training))
    training_loop.write_config(training)
    if not past:
        training_loop.save(training, progress)
    return _run(training, progress, data_root, quiet, draw)


def training_psnr(config: Config, folder: Path, data_root: Path) -> float:
    """Mean PSNR in dB of the reconstructions of all training patches (first visit) by the model of a run."""
    training = _training(config, build_model(config), folder, data_root)
    training_loop.restore(training)
    reconstruct = assemble.reconstructor(config, training.problem.model, data_root)
    whole, values = replace(training.problem, batch_size=PART), []
    for step in range(math.ceil(len(whole.patches) / PART)):
        batch, patches = whole.batch(step)
        energy = batch.energy()
        solution = reconstruct.solve(energy, energy.start, reconstruct.accuracy)
        values.append(psnr(solution.x, reconstruct.to_device(patches.clean)))
    return float(torch.cat(values)[: len(whole.patches)].mean())


def _ancestor(start: str) -> dict[str, Any]:
    """The provenance of the model that a run begins with, all of whose training came before."""
    if not start:
        return {}
    facts = {"commands": [UNKNOWN], **read_facts(find_model(start))}
    return facts | {"seconds_before": facts.get("seconds_before", 0.0) + facts.get("seconds", 0.0)}


def _past(folder: Path) -> dict[str, Any]:
    """The provenance of a run so far; nothing where its model file is lost, which resuming writes anew."""
    try:
        return read_facts(folder / "model.safetensors")
    except (OSError, SafetensorError, ValueError):
        return {}


def _provenance(past: dict[str, Any], command: str, training: Training) -> dict[str, Any]:
    """Every command and machine that had a part in a run, the present ones last, and the time before its start."""
    machines = [*past.get("hardware", []), processor(training.problem.device)]
    return {
        "commands": [*past.get("commands", []), command],
        "hardware": list(dict.fromkeys(machines)),
        "seconds_before": past.get("seconds_before", 0.0),
    }


def _training(config: Config, model: Model, folder: Path, data_root: Path) -> Training:
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
    if method.finite_sum and data.noise == "fresh":
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
        len(patches) if method.full_batch else config.upper.batch_size,
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
    return Training(folder, config, training_problem, method, State(data.noise == "fixed"), selection, validate)


def _run(training: Training, progress: Progress, data_root: Path, quiet: bool, draw: bool) -> int:
    _log_to(training.folder / "log.txt")
    problem = training.problem
    mu, largest = problem.batch(0)[0].energy().bounds
    log.info(
        "%s: %d training images, %d parameters, mu = %.3g, L = %.3g at step %d",
        training.folder, len(problem.patches), sum(p.numel() for p in problem.model.parameters()),
        mu, largest, progress.step,
    )  # fmt: skip
    if mu <= 0:
        log.info(NOT_CERTIFIED)
    _log_kernel_error(training, data_root)
    upper = training.config.upper
    if upper.algorithm == "isgd" and (upper.schedule, upper.accuracy_schedule) == ("polynomial", "polynomial"):
        log.info("%s", unmet_condition(upper.step_decay, upper.accuracy_decay) or "the schedules meet the theory")
    try:
        progress = training_loop.train(training, progress, quiet)
    except Interrupted:
        log.info("stopped after a whole step; continue with: python -m app resume %s", training.folder)
        return 130
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; the last good state is saved in {training.folder}") from None
    mu, largest = problem.batch(0)[0].energy().bounds
    log.info(
        "done: %d steps, %.0f s, %d computations, mu = %.3g, L = %.3g",
        progress.step, progress.seconds, progress.computations, mu, largest,
    )  # fmt: skip
    if mu <= 0:
        log.info(NOT_CERTIFIED)
    regularizer = problem.model.regularizer
    if isinstance(regularizer, Rescaled):
        log.info("amplitude %.4g, contrast %.4g", *regularizer.frozen().natural)
    _log_kernel_error(training, data_root)
    for name in _draw_run(training, data_root) if draw else ("model.safetensors",):
        log.info("%s", training.folder / name)
    return 0


def _log_kernel_error(training: Training, data_root: Path) -> None:
    error = assemble.learned_kernel_error(training.config, training.problem.model, data_root)
    if error is not None:
        log.info("kernel error ||k - k_true|| / ||k_true|| = %.3f", error)


def _log_to(file: Path) -> None:
    """Say what happens on stdout and in the run's log; one run at a time."""
    log.setLevel(logging.INFO)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    for handler in (logging.FileHandler(file), logging.StreamHandler(sys.stdout)):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(handler)


def _draw_run(training: Training, data_root: Path) -> list[str]:
    folder, regularizer = training.folder, training.problem.model.regularizer
    save(draw_curves([str(folder)]), folder / "curves.png")
    names = ["model.safetensors", "curves.png"]
    if isinstance(regularizer, FieldOfExperts | Adaptive):
        save(draw_filters(regularizer, folder.name), folder / "filters.png")
        names.append("filters.png")
    held_out = find_images(training.config.data.validation, data_root, training.config.data.color)
    for suffix in ("png", "pdf"):
        drawn = draw_comparison([str(folder)], str(held_out.paths[0]), 64, [], data_root)
        save(drawn, folder / f"reconstruction.{suffix}")
        names.append(f"reconstruction.{suffix}")
    return names


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
