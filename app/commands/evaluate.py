"""`evaluate`."""

from pathlib import Path

from tqdm import tqdm

from app import assemble
from app.evaluate import Evaluation
from app.evaluate import evaluate as evaluate_images
from app.files import write_atomically
from app.options import ConfigError
from app.tables import csv_table, latex_table, summary_table
from datasets.image_sets import find_images


def evaluate(
    models: list[str],
    images: str,
    settings: list[str],
    data_root: Path,
    csv_file: Path | None,
    latex: Path | None,
    quiet: bool,
) -> int:
    if csv_file and len(models) > 1:
        raise ConfigError("--csv holds the images of one model; evaluate the models one by one")
    for file in filter(None, (csv_file, latex)):
        _check_writable(file)
    evaluations: dict[str, list[Evaluation]] = {}
    loaded = assemble.load_comparable(models, settings)
    for name, (model, config) in loaded.items():
        paths = find_images(images, data_root, config.data.color).paths
        rows = evaluate_images(assemble.reconstructor(config, model, data_root), paths, config.data.color)
        evaluations[name] = list(tqdm(rows, name, len(paths), disable=quiet, unit="image", dynamic_ncols=True))
    print(summary_table(evaluations))
    for name, (model, config) in loaded.items():
        error = assemble.learned_kernel_error(config, model, data_root)
        if error is not None:
            print(f"{name}: kernel error ||k - k_true|| / ||k_true|| = {error:.3f}")
    if csv_file:
        write_atomically(csv_file, csv_table(evaluations[models[0]]).encode())
    if latex:
        write_atomically(latex, latex_table(evaluations).encode())
    return 0


def _check_writable(file: Path) -> None:
    """A folder that cannot be written is found now, not after minutes. Raises OSError."""
    there = file.exists()
    file.open("a").close()
    if not there:
        file.unlink()
