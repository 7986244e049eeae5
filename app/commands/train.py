"""`train` and `resume`."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

from app import assemble
from app.drawing.run import draw_run
from app.lower.solution import NOT_CERTIFIED, NonFiniteError
from app.models.build import build_model
from app.models.provenance import UNKNOWN
from app.settings.methods import IsgdOptions
from app.settings.options import Config
from app.training import start as transfer
from app.training import train as training_loop
from app.training.setup import ancestor, past, prepare, provenance
from app.training.train import Interrupted, Progress, Training
from app.upper.methods.isgd import unmet_condition
from regularizers import Rescaled

log = logging.getLogger("app")


def train(config: Config, folder: Path, data_root: Path, quiet: bool, draw: bool = True, command: str = UNKNOWN) -> int:
    """`command` is what the user typed."""
    config, model = transfer.begin(config)
    training = prepare(config, model, folder, data_root)
    training = replace(training, provenance=provenance(ancestor(config.regularizer.start), command, training))
    return _run(training, training_loop.begin(training), data_root, quiet, draw)


def resume(
    config: Config, folder: Path, data_root: Path, quiet: bool, draw: bool = True, command: str = UNKNOWN
) -> int:
    training = prepare(config, build_model(config), folder, data_root)
    progress, before = training_loop.restore(training), past(folder)
    training = replace(training, provenance=provenance(before, command, training))
    training_loop.write_config(training)
    if not before:
        training_loop.save(training, progress)
    return _run(training, progress, data_root, quiet, draw)


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
    if isinstance(upper, IsgdOptions) and upper.schedule == "polynomial":
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
    for name in draw_run(training, data_root) if draw else ("model.safetensors",):
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
