"""What a model is worth, for its card: it is evaluated, and kept among the shipped ones with what was found."""

import re
import shlex
from dataclasses import asdict
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from app import assemble
from app.evaluation.evaluate import Evaluation, evaluate
from app.evaluation.simulation import simulation
from app.models import files
from app.models.card import Assessment, blur_text, full_name
from app.models.files import find_model, load_model, read_facts, save_model
from app.models.provenance import contention, processor
from app.settings.options import Config, ConfigError
from app.settings.tasks import Problem
from app.settings.toml import override, settings
from datasets.image_sets import find_images
from figures.table import standard_error


def ship(
    spec: str,
    *,
    name: str | None,
    images: list[str],
    noise_levels: list[str],
    kernels: list[str],
    data_root: Path,
    quiet: bool,
) -> Path:
    """Assess a model at every noise level and with every kernel on every image set, keep it in float32 with what was
    found, and return its file. A shipped model may be assessed again. The arguments are those of the command. Raises
    ConfigError where another model has the name."""
    if name is not None and not re.fullmatch(r"\w[\w.+=-]*", name):
        raise ConfigError(f"--name {name!r} must be letters, digits and any of .+=_-, as foe-denoise-grey-25")
    model, config = load_model(spec)
    config = override(config, ["run.precision=float32"])
    levels = [override(config, [f"problem.noise_level={n}"]).problem.level for n in noise_levels]
    levels, kernels = levels or [config.problem.level], kernels or [blur_text(config.problem)]
    source = find_model(spec)
    target = files.PRETRAINED / f"{name or full_name(config, levels, kernels)}.safetensors"
    if target.exists() and not target.samefile(source):
        raise ConfigError(f"{target} exists already: remove it first, or choose another --name")
    ways = [["run.precision=float32", f"problem.noise_level={n}", *([f"problem.kernel={k}"] if k else [])]
                for n in levels for k in kernels]  # fmt: skip
    found = [assess(spec, each, own, data_root, quiet) for own in ways for each in images]
    config, facts = without_folders(config, {**read_facts(source), "evaluations": found})
    save_model(target, model.to(torch.device("cpu"), torch.float32), config, facts)
    return target


def without_folders(config: Config, facts: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
    """Replace absolute paths of settings, commands and evaluations by their last names: a file that is given away tells
    no folder of the machine that it was made on."""
    moved = [f"{section}.{key}={short}" for section, key, value, _ in settings(config)
             if isinstance(value, str) and (short := _name(value)) != value]  # fmt: skip
    told = dict(facts)
    if "commands" in facts:
        told["commands"] = [shlex.join(map(_name, shlex.split(command))) for command in facts["commands"]]
    if "evaluations" in facts:
        told["evaluations"] = [{**row, "images": _name(row["images"])} for row in facts["evaluations"]]
    return override(config, moved), told


def _name(word: str) -> str:
    """Return the last name of an absolute path, also of one after `key=`, and any other word as it is."""
    key, sign, value = word.partition("=") if not word.startswith("/") else ("", "", word)
    return f"{key}{sign}{Path(value).name}" if value.startswith("/") else word


def assess(spec: str, images: str, settings: list[str], data_root: Path, quiet: bool) -> dict[str, Any]:
    """Evaluate a model on an image set and return the Assessment."""
    model, config = assemble.load(spec, settings)
    paths = find_images(images, data_root, config.data.color).paths
    simulated = simulation(config, model, data_root, dict(enumerate(paths)))
    shapes = simulated.check_images(paths, config.data.color)
    rows = evaluate(simulated, paths, config.data.color)
    done = list(tqdm(rows, images, len(paths), disable=quiet, unit="image", dynamic_ncols=True))
    bounds = [simulated.bounds(shape, (i,)) for i, shape in enumerate(shapes)]
    extremes = min(mu for mu, _ in bounds), max(largest for _, largest in bounds)
    machine = processor(assemble.device_of(config)) + contention()
    return assessment(images, config.problem, config.lower.final_accuracy, done, extremes, machine)


def assessment(
    images: str, problem: Problem, accuracy: float, rows: list[Evaluation], bounds: tuple[float, float], hardware: str
) -> dict[str, Any]:
    """Return an Assessment for the facts of a file. bounds: (mu, L)."""
    psnr, ssim = [e.psnr for e in rows], [e.ssim for e in rows if e.ssim is not None] or [nan]
    return asdict(
        Assessment(
            images=images, count=len(rows), task=problem.task, noise_level=problem.level, kernel=blur_text(problem),
            psnr=fmean(psnr), psnr_error=standard_error(psnr), ssim=fmean(ssim), ssim_error=standard_error(ssim),
            psnr_degraded=fmean(e.psnr_degraded for e in rows), certified=sum(bool(e.converged) for e in rows),
            accuracy=accuracy, mu=bounds[0], largest=bounds[1], iterations=fmean(e.iterations or 0 for e in rows),
            seconds=fmean(e.seconds for e in rows), hardware=hardware,
        )
    )  # fmt: skip
