"""`check`."""

from argparse import Namespace

from tqdm import tqdm

from app import assemble
from app.checking.check import findings
from app.checking.finding import table
from app.problem.problem import Problem
from app.settings.options import Config
from app.training.start import begin
from datasets.image_sets import find_images
from datasets.images import read_image
from datasets.patches import whole_blocks

ROWS, COLUMNS = 40, 48  # of the image: room for blur kernels, and no square, in which errors could hide


def check(o: Namespace, settings: list[str], experiment: Config | None) -> int:
    """Print one table about a model, or about an experiment with its first parameters; return 1 where a row fails.
    Raises ConfigError, ModelError and KernelError."""
    if experiment is None:
        model, config = assemble.load(o.source, settings)
    else:
        config, model = begin(experiment)
    operators, color = assemble.operators(config, o.data_root), config.data.color
    photograph = read_image(find_images("builtin:test", o.data_root, color).paths[0], color)
    crop = photograph[:, 100 : 100 + ROWS, 200 : 200 + COLUMNS]
    problem = Problem(
        operators, clean=whole_blocks(crop, operators.multiple)[None], noise_level=config.problem.level,
        ridge=config.problem.ridge, loss=assemble.loss(config), noisy=config.data.targets == "noisy",
        seed=config.run.seed, device=assemble.device_of(config), dtype=assemble.dtype_of(config),
    )  # fmt: skip
    rows = findings(model, problem, assemble.lower_solver(config), config.lower.final_accuracy)
    found = list(tqdm(rows, "check", disable=o.quiet, unit="row", leave=False, dynamic_ncols=True))
    print(table(found))
    return int(not all(f.passed for f in found))
