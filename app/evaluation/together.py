"""Several models, and baselines, on the same measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from app import assemble
from app.evaluation import baselines, noise_check
from app.evaluation.evaluate import Evaluation, evaluate
from app.evaluation.simulation import simulation
from app.lower.solution import GIVEN_GUIDE
from app.settings.tasks import Deblur, Tomography
from datasets.image_sets import find_images


def evaluate_together(
    models: list[str], names: tuple[str, ...], images: str, settings: list[str], data_root: Path, quiet: bool
) -> tuple[dict[str, list[Evaluation]], list[str]]:
    """Evaluate models, and the baselines of these names on the same measurements. Return all rows by the method's
    label, and what else is to be said about them. Raises ConfigError, ModelError and ImageError."""
    loaded = assemble.load_comparable(models, settings)
    _, config = next(iter(loaded.values()))
    baselines.check(names, config)
    paths = find_images(images, data_root, config.data.color).paths

    def run(label: str, rows: Iterator[Evaluation]) -> list[Evaluation]:
        return list(tqdm(rows, label, len(paths), disable=quiet, unit="image", dynamic_ncols=True))

    simulated = {name: simulation(c, model, data_root, dict(enumerate(paths))) for name, (model, c) in loaded.items()}
    for s in simulated.values():
        s.check_images(paths, config.data.color)
    for name, (_, own) in loaded.items():
        noise_check.warn_of_level(name, own.problem)
    found = {name: run(name, evaluate(s, paths, config.data.color)) for name, s in simulated.items()}
    measured, notes = simulated[models[0]], assemble.kernel_notes(config, data_root)
    if isinstance(config.problem, Tomography):
        notes.append("degraded: filtered back-projection")
    kernels = assemble.true_kernels(config.problem, data_root) if isinstance(config.problem, Deblur) else None
    for name in names:
        baseline = baselines.prepare(name, config, measured, kernels, data_root, quiet)
        found[baseline.label] = run(baseline.label, evaluate(measured, paths, config.data.color, baseline.method))
        notes.append(f"{baseline.label}: {baseline.about}")
    for name, (model, own) in loaded.items():
        if model.regularizer.guide_at_level():
            notes.append(f"{name}: certified {GIVEN_GUIDE}")
        error = assemble.learned_kernel_error(own, model, data_root)
        if error is not None:
            notes.append(f"{name}: kernel error ||k - k_true|| / ||k_true|| = {error:.3f}")
    return found, notes
