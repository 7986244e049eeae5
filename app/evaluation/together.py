"""Several models, and baselines, on the same measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from app import assemble
from app.evaluation import baselines, noise_check, perceptual
from app.evaluation.evaluate import Evaluation, Pair, evaluate
from app.evaluation.guide import condition_of
from app.evaluation.measured import Files, assumed, config_of_files, files_of, pair
from app.evaluation.simulation import Simulation, simulation
from app.models.build import Model
from app.models.card import read_card
from app.processes import ALONE, Processes
from app.settings.options import Config
from app.settings.tasks import Tomography
from datasets.image_sets import find_images
from datasets.images import Range, read_all

Loaded = dict[str, tuple[Model, Config]]


def evaluate_together(
    models: list[str], names: tuple[str, ...], images: str, settings: list[str], data_root: Path, quiet: bool,
    measured: str | None = None, limits: Range | None = None, weights: Path | None = None,
    count: int | None = None, processes: Processes = ALONE,
) -> tuple[dict[str, list[Evaluation]], list[str]]:  # fmt: skip
    """Evaluate models, and the baselines of these names on the same measurements. Return all rows by the method's
    label, and what else is to be said about them. Raises ConfigError, ModelError and ImageError.

    measured: folder of what was measured of the images; None: they are measured here.  limits: black and white of its
    files of floats.  weights: folder of those of networks; None: deepinv downloads them.  count: how many images, from
    the first; None: all.  processes: share the images out. The parameters are those of the command; the lines prepare
    once what all methods share.
    """
    loaded = assemble.load_comparable(models, settings)
    if measured is not None:
        loaded = {name: (model, config_of_files(own, settings, False)) for name, (model, own) in loaded.items()}
    trained = {name: read_card(name).training_seconds for name in loaded}
    _, config = next(iter(loaded.values()))
    known = baselines.load(names, config, weights)
    paths, color = find_images(images, data_root, config.data.color).paths[:count], config.data.color

    simulated = {name: simulation(c, model, data_root, dict(enumerate(paths))) for name, (model, c) in loaded.items()}
    first, notes = simulated[models[0]], assemble.file_notes(config, data_root)
    notes += [] if measured is None else assumed(config, settings)
    sizes: list[int] = []
    for s in simulated.values():
        sizes = [shape.numel() for shape in s.check_images(paths, color)]
    mine = processes.own_part(sizes)

    def run(label: str, rows: Iterator[Evaluation]) -> list[Evaluation]:
        bar = tqdm(rows, label, len(mine), disable=quiet or not processes.first, unit="image", dynamic_ncols=True)
        found = {i: row for part in processes.objects(dict(zip(mine, bar, strict=True))) for i, row in part.items()}
        return [found[i] for i in range(len(paths))]

    files = None if measured is None else _checked(files_of(paths, measured, config, limits), paths, first)
    for name, (_, own) in loaded.items():
        noise_check.warn_of_level(name, own.problem)
    found, distance = {}, perceptual.distance(first.device, notes)
    for name, s in simulated.items():
        told: dict[int, str] = {}
        pairs = files and _pairs(files, s, name, *loaded[name], settings, told)
        size = loaded[name][0].size
        rows = evaluate(s, paths, color, measured=pairs, distance=distance, parameters=size, own=mine)
        found[name] = [replace(row, training=trained[name]) for row in run(name, rows)]
        of_all = {i: note for part in processes.objects(told) for i, note in part.items()}
        notes += [of_all[i] for i in sorted(of_all)]
    for name in names:
        baseline = baselines.prepare(name, known, config, first, data_root, quiet)
        pairs = files and partial(pair, files, first)
        rows = evaluate(first, paths, color, baseline.method, pairs, distance, baseline.parameters, own=mine)
        found[baseline.label] = run(baseline.label, rows)
        notes.append(f"{baseline.label}: {baseline.about}")
    if same := sum(row.psnr_degraded == inf for row in found[models[0]]):
        notes.append(f"what was measured of {same} images is the clean image itself")
    return found, [*notes, *_remarks(loaded, data_root)]


def _checked(files: Files, paths: tuple[Path, ...], simulated: Simulation) -> Files:
    """Read every measurement now. Raises one ImageError that names all that do not belong to their images."""
    color = files.config.data.color
    read_all(range(len(paths)), lambda i: pair(files, simulated, i, simulated.read(paths[i], color)))
    return files


def _pairs(
    files: Files, simulated: Simulation, name: str, model: Model, config: Config, settings: list[str],
    notes: dict[int, str],
) -> Callable[[int, Tensor], Pair]:  # fmt: skip
    """Return what reads the pairs for one model; where no noise level is given, it is estimated, and told in a note of
    the image. The parameters are all that is known of a model."""

    def estimated(i: int, clean: Tensor) -> Pair:  # (1, C, H, W)
        found = pair(files, simulated, i, clean)
        reconstruct, told = noise_check.at_estimated_level(simulated, model, config.problem, found.y, i)
        notes[i] = f"{name}: {files.sources[i]}: {told}"
        return replace(found, reconstruct=reconstruct)

    return partial(pair, files, simulated) if noise_check.is_given(settings) else estimated


def _remarks(loaded: Loaded, data_root: Path) -> list[str]:
    """What must be known of models to read their rows."""
    notes = []
    if any(isinstance(config.problem, Tomography) for _, config in loaded.values()):
        notes.append("degraded: filtered back-projection")
    for name, (model, own) in loaded.items():
        if condition := condition_of(model.regularizer):
            notes.append(f"{name}: certified{condition}")
        error = assemble.learned_kernel_error(own, model, data_root)
        if error is not None:
            notes.append(f"{name}: kernel error ||k - k_true|| / ||k_true|| = {error:.3f}")
    return notes
