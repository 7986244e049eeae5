"""What the commands do: the only place where the parts are put together."""

import csv
import logging
import sys
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from app import assemble
from app.config import Config, ConfigError, override
from app.evaluate import Evaluation, Reconstructor
from app.evaluate import evaluate as evaluate_images
from app.losses import psnr, ssim
from app.lower.solution import NotStronglyConvexError
from app.models import ModelError, build_regularizer, load_model
from app.tables import latex_table, summary_table
from app.training import records
from app.training import train as training_loop
from app.training.checkpoint import RunError
from app.training.problem import TrainingProblem
from app.training.train import Interrupted, Progress, Training
from app.upper.isgd import NonFiniteError
from datasets.fetch import FetchError
from datasets.image_sets import ImageSet, find_images
from datasets.images import ImageError, read_image, write_image
from datasets.kernels import KernelError
from datasets.patches import Patches, centre_crop
from figures import comparison, curves, filters
from figures.style import save
from regularizers import FieldOfExperts, Regularizer

USER_ERRORS = (
    ConfigError,
    FetchError,
    ImageError,
    KernelError,
    ModelError,
    NonFiniteError,
    NotStronglyConvexError,
    RunError,
)

log = logging.getLogger("app")


def train(config: Config, folder: Path, data_root: Path, quiet: bool) -> int:
    training = _training(config, folder, data_root)
    return _run(training, training_loop.begin(training), data_root, quiet)


def resume(config: Config, folder: Path, data_root: Path, quiet: bool) -> int:
    training = _training(config, folder, data_root)
    return _run(training, training_loop.restore(training), data_root, quiet)


def evaluate(
    model: str,
    images: str,
    settings: list[str],
    data_root: Path,
    csv_file: Path | None,
    latex: Path | None,
    quiet: bool,
) -> int:
    regularizer, config = _load(model, settings)
    image_set = find_images(images, data_root, config.data.color)
    for file in filter(None, (csv_file, latex)):
        file.touch()  # a folder without write permission is found now, not after minutes
    reconstruct = _reconstructor(config, regularizer, data_root)
    rows = evaluate_images(reconstruct, image_set.paths, config.data.color)
    evaluations = list(tqdm(rows, total=len(image_set.paths), disable=quiet, unit="image", dynamic_ncols=True))
    print(summary_table({model: evaluations}))
    if csv_file:
        _write_csv(csv_file, evaluations)
    if latex:
        latex.write_text(latex_table({model: evaluations}), encoding="utf-8")
    return 0


def reconstruct(model: str, images: list[str], settings: list[str], data_root: Path, out: Path, degrade: bool) -> int:
    regularizer, config = _load(model, settings)
    paths = [p for spec in images for p in find_images(spec, data_root, config.data.color).paths]
    targets = [out / f"{path.stem}.png" for path in paths]
    for target in targets:
        if target.exists() or targets.count(target) > 1:
            raise RunError(f"{target} would be overwritten: choose another --out, or rename the images")
    reconstruct = _reconstructor(config, regularizer, data_root)
    out.mkdir(parents=True, exist_ok=True)
    for i, (path, target) in enumerate(zip(paths, targets, strict=True)):
        image = reconstruct.to_device(read_image(path, config.data.color)[None])
        y = reconstruct.measure(image, (i,)) if degrade else image
        solution = reconstruct(y, (i,))
        write_image(target, solution.x[0])
        quality = f"PSNR {float(psnr(solution.x, image)):.2f} dB, " if degrade else ""
        print(f"{target}: {quality}||x - argmin h|| <= {float(solution.error_bound):.3g}, "
              f"{int(solution.iterations)} iterations" + _uncertified(bool(solution.converged)))  # fmt: skip
        if degrade:
            write_image(target.with_stem(f"{target.stem}_degraded"), y[0])
    return 0


def figure(
    kind: str, sources: list[str], images: str | None, crop: int, settings: list[str], data_root: Path, out: Path
) -> int:
    if out.suffix not in (".pdf", ".png", ".svg"):
        raise ConfigError(f"--out {out}: the suffix must be .pdf, .png or .svg")
    if kind == "curves":
        drawn = curves.draw({Path(s).name: _metrics(Path(s)) for s in sources})
    elif kind == "filters":
        if len(sources) != 1:
            raise ConfigError("figure filters draws one model")
        drawn = _draw_filters(load_model(sources[0])[0], sources[0])
    else:
        if images is None:
            raise ConfigError("figure comparison needs --images")
        drawn = _draw_comparison(sources, images, crop, settings, data_root)
    out.parent.mkdir(parents=True, exist_ok=True)
    save(drawn, out)
    print(out)
    return 0


def _training(config: Config, folder: Path, data_root: Path) -> Training:
    """Read and check everything a run needs, before anything is written."""
    device, dtype = assemble.device_of(config), assemble.dtype_of(config)
    data, problem = config.data, config.problem
    if data.patch_size < config.regularizer.filter_size:
        raise ConfigError(f"data.patch_size = {data.patch_size} is smaller than the filters")
    patches = Patches(
        find_images(data.images, data_root, data.color),
        data.color,
        data.patch_size,
        config.run.seed,
        data.noise == "fixed",
        data.augment,
    )
    patches.load()
    held_out = find_images(data.validation, data_root, data.color)
    regularizer = build_regularizer(config.regularizer, data.color).to(device, dtype)
    operators = assemble.operator_factory(problem, config, data_root)
    training_problem = TrainingProblem(
        regularizer,
        patches,
        operators,
        problem.noise_level,
        problem.ridge,
        config.upper.batch_size,
        device,
        dtype,
    )
    mu, _ = training_problem.batch(0)[0].energy.bounds
    if mu <= 0:
        raise NotStronglyConvexError(mu)
    optimizer = assemble.optimizer(config, list(regularizer.parameters()))
    validate = partial(_validate, config, regularizer, held_out, data_root)
    return Training(folder, config, training_problem, assemble.isgd(config), optimizer, validate)


def _run(training: Training, progress: Progress, data_root: Path, quiet: bool) -> int:
    _log_to(training.folder / "log.txt")
    problem = training.problem
    mu, largest = problem.batch(0)[0].energy.bounds
    log.info(
        "%s: %d training images, %d parameters, mu = %.3g, L = %.3g at step %d",
        training.folder, len(problem.patches), sum(p.numel() for p in problem.regularizer.parameters()),
        mu, largest, progress.step,
    )  # fmt: skip
    try:
        progress = training_loop.train(training, progress, quiet)
    except Interrupted:
        log.info("stopped after a whole step; continue with: python -m app resume %s", training.folder)
        return 130
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; the state before it is saved in {training.folder}") from None
    mu, largest = problem.batch(0)[0].energy.bounds
    log.info(
        "done: %d steps, %.0f s, %d computations, mu = %.3g, L = %.3g",
        progress.step, progress.seconds, progress.computations, mu, largest,
    )  # fmt: skip
    for name in _draw_run(training, data_root):
        log.info("%s", training.folder / name)
    return 0


def _log_to(file: Path) -> None:
    log.setLevel(logging.INFO)
    for handler in (logging.FileHandler(file), logging.StreamHandler(sys.stdout)):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(handler)


def _draw_run(training: Training, data_root: Path) -> list[str]:
    folder, regularizer = training.folder, training.problem.regularizer
    save(curves.draw({folder.name: _metrics(folder)}), folder / "curves.png")
    names = ["model.safetensors", "curves.png"]
    if isinstance(regularizer, FieldOfExperts):
        save(_draw_filters(regularizer, folder.name), folder / "filters.png")
        names.append("filters.png")
    held_out = find_images(training.config.data.validation, data_root, training.config.data.color)
    for suffix in ("png", "pdf"):
        drawn = _draw_comparison([str(folder)], str(held_out.paths[0]), 64, [], data_root)
        save(drawn, folder / f"reconstruction.{suffix}")
        names.append(f"reconstruction.{suffix}")
    return names


def _load(model: str, settings: list[str]) -> tuple[Regularizer, Config]:
    """A model and its configuration with the user's settings; on the device and in the precision they say."""
    regularizer, trained = load_model(model)
    config = override(trained, settings)
    if config.regularizer != trained.regularizer or config.data.color != trained.data.color:
        raise ConfigError(f"the architecture and colour of {model} are fixed; only the problem can be set")
    return regularizer.to(assemble.device_of(config), assemble.dtype_of(config)), config


def _reconstructor(config: Config, regularizer: Regularizer, data_root: Path) -> Reconstructor:
    problem = config.problem
    return Reconstructor(
        regularizer.frozen(),
        assemble.operator_factory(problem, config, data_root),
        assemble.lower_solver(config),
        config.lower.final_accuracy,
        problem.noise_level,
        problem.ridge,
        config.run.seed,
        assemble.device_of(config),
        assemble.dtype_of(config),
    )


def _validate(config: Config, regularizer: Regularizer, held_out: ImageSet, data_root: Path) -> float:
    """Mean PSNR on centre crops of the held-out images, solved from scratch to the final accuracy."""
    reconstruct = _reconstructor(config, regularizer, data_root)
    groups: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
    for i, path in enumerate(held_out.paths):
        crop = centre_crop(read_image(path, config.data.color), config.data.validation_crop)
        groups.setdefault(crop.shape, []).append((i, crop))
    values = []
    for group in groups.values():
        for part in (group[n : n + 8] for n in range(0, len(group), 8)):
            images = tuple(i for i, _ in part)
            clean = reconstruct.to_device(torch.stack([crop for _, crop in part]))
            values.append(psnr(reconstruct(reconstruct.measure(clean, images), images).x, clean))
    return float(torch.cat(values).mean())


def _metrics(run: Path) -> dict[str, list[float]]:
    file = run / "metrics.csv"
    if not file.is_file():
        raise RunError(f"{run} is not a run folder (no metrics.csv)")
    return records.read(file)


def _draw_filters(regularizer: Regularizer, name: str) -> Any:
    if not isinstance(regularizer, FieldOfExperts):
        raise ConfigError(f"{name} has no filters to draw (figure filters is for foe)")
    functional = regularizer.frozen()
    return filters.draw(functional.filters, functional.weights, functional.smoothings)


def _draw_comparison(models: list[str], images: str, crop: int, settings: list[str], data_root: Path) -> Any:
    rows: list[dict[str, comparison.Panel]] = []
    for model in models:
        regularizer, config = _load(model, settings)
        reconstruct = _reconstructor(config, regularizer, data_root)
        for i, path in enumerate(find_images(images, data_root, config.data.color).paths):
            clean = reconstruct.to_device(read_image(path, config.data.color)[None])
            y = reconstruct.measure(clean, (i,))
            if len(rows) <= i:
                rows.append({"clean": comparison.Panel(clean[0].cpu()), "degraded": _panel(y, clean)})
            rows[i][_short_name(model)] = _panel(reconstruct(y, (i,)).x, clean)
    return comparison.draw(rows, crop)


def _short_name(model: str) -> str:
    path = Path(model)
    return path.stem if path.suffix == ".safetensors" else path.resolve().name


def _panel(x: torch.Tensor, clean: torch.Tensor) -> comparison.Panel:
    return comparison.Panel(x[0].cpu(), float(psnr(x, clean)), float(ssim(x, clean)))


def _uncertified(converged: bool) -> str:
    return "" if converged else " (accuracy not reached: not certified)"


def _write_csv(file: Path, evaluations: list[Evaluation]) -> None:
    mean = replace(
        evaluations[0],
        image="mean",
        **{
            f.name: sum(getattr(e, f.name) for e in evaluations) / len(evaluations)
            for f in fields(Evaluation)
            if f.name != "image"
        },
    )
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(Evaluation)])
        writer.writeheader()
        writer.writerows(asdict(e) for e in [*evaluations, mean])
