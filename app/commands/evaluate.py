"""`evaluate`."""

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from app import assemble
from app.evaluation import baselines
from app.evaluation.evaluate import Evaluation
from app.evaluation.evaluate import evaluate as evaluate_images
from app.evaluation.simulation import simulation
from app.evaluation.tables import csv_table, latex_table, summary_table
from app.files import write_atomically
from app.settings.options import ConfigError
from app.settings.tasks import Deblur
from datasets.image_sets import find_images


def evaluate(
    models: list[str],
    images: str,
    settings: list[str],
    data_root: Path,
    csv_file: Path | None,
    latex: Path | None,
    quiet: bool,
    names: tuple[str, ...] = (),
) -> int:
    """Models, and the baselines of these names on the same measurements: one table."""
    if csv_file and len(models) > 1:
        raise ConfigError("--csv holds the images of one model; evaluate the models one by one")
    csv_files = {name: csv_file.with_stem(f"{csv_file.stem}-{name}") for name in names} if csv_file else {}
    for file in filter(None, (csv_file, latex, *csv_files.values())):
        _check_writable(file)
    loaded = assemble.load_comparable(models, settings)
    _, config = next(iter(loaded.values()))
    baselines.check(names, config)
    paths = find_images(images, data_root, config.data.color).paths
    evaluations: dict[str, list[Evaluation]] = {}

    def run(name: str, rows: Iterator[Evaluation]) -> None:
        evaluations[name] = list(tqdm(rows, name, len(paths), disable=quiet, unit="image", dynamic_ncols=True))

    reconstructors = {name: simulation(c, model, data_root) for name, (model, c) in loaded.items()}
    for name, reconstruct in reconstructors.items():
        run(name, evaluate_images(reconstruct, paths, config.data.color))
    measured = reconstructors[models[0]]
    kernels = assemble.true_kernels(config.problem, data_root) if isinstance(config.problem, Deblur) else None
    prepared = {name: baselines.prepare(name, config, measured, kernels, data_root, quiet) for name in names}
    for baseline in prepared.values():
        run(baseline.label, evaluate_images(measured, paths, config.data.color, baseline.method))
    print(summary_table(evaluations))
    for baseline in prepared.values():
        print(f"{baseline.label}: {baseline.about}")
    for name, (model, config) in loaded.items():
        error = assemble.learned_kernel_error(config, model, data_root)
        if error is not None:
            print(f"{name}: kernel error ||k - k_true|| / ||k_true|| = {error:.3f}")
    if csv_file:
        write_atomically(csv_file, csv_table(evaluations[models[0]]).encode())
    for name, file in csv_files.items():
        write_atomically(file, csv_table(evaluations[prepared[name].label]).encode())
    if latex:
        write_atomically(latex, latex_table(evaluations).encode())
    return 0


def _check_writable(file: Path) -> None:
    """A folder that cannot be written is found now, not after minutes. Raises OSError."""
    there = file.exists()
    file.open("a").close()
    if not there:
        file.unlink()
