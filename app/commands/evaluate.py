"""`evaluate`."""

from argparse import Namespace

from app.assemble import device_of, load
from app.evaluation.baselines import label
from app.evaluation.tables import csv_table, latex_table, markdown_table, summary_table
from app.evaluation.together import evaluate_together
from app.files import check_distinct, check_writable, write_atomically
from app.models.files import find_model
from app.processes import joined
from app.settings.options import ConfigError
from datasets.image_sets import find_images


def evaluate(o: Namespace, settings: list[str]) -> int:
    """Print one table of models and baselines, and write it where files are asked for. Raises ConfigError, ModelError
    and ImageError, and ProcessError."""
    if o.csv and len(o.models) > 1:
        raise ConfigError("--csv holds the images of one model; evaluate the models one by one")
    csv_files = {label(name): o.csv.with_stem(f"{o.csv.stem}-{name}") for name in o.baselines} if o.csv else {}
    csv_files |= {o.models[0]: o.csv} if o.csv else {}
    if o.range and o.measured is None:
        raise ConfigError("--range BLACK WHITE is for files of --measured")
    _, config = load(o.models[0], settings)
    outputs = [*csv_files.values(), *filter(None, (o.latex, o.markdown))]
    check_distinct(outputs, [*find_images(o.images, o.data_root, config.data.color).paths, *map(find_model, o.models)])
    with joined(device_of(config), config.run.timeout) as processes:
        for file in outputs if processes.first else ():
            check_writable(file)
        methods, notes = evaluate_together(
            o.models, o.baselines, o.images, settings, o.data_root, o.quiet, measured=o.measured, limits=o.range,
            weights=o.weights, count=o.count, processes=processes,
        )  # fmt: skip
    if not processes.first:
        return 0
    for name, file in csv_files.items():
        write_atomically(file, csv_table(methods[name]).encode())
    if o.latex:
        write_atomically(o.latex, latex_table(methods).encode())
    if o.markdown:
        write_atomically(o.markdown, markdown_table(methods).encode())
    print(summary_table(methods), *notes, sep="\n")  # last: who reads it may have gone
    return 0
