"""A run from its settings to its end, with a log: what `train`, `resume` and `compare` have in common."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from app import assemble
from app.files import write_own
from app.lower.solution import NOT_CERTIFIED, NonFiniteError
from app.models.build import build_model
from app.models.provenance import UNKNOWN
from app.processes import ALONE, Processes
from app.settings.methods import IsgdOptions
from app.settings.options import Config
from app.settings.toml import differences, load
from app.training import run as stored
from app.training import start
from app.training.checkpoint import RunError
from app.training.owner import owned
from app.training.pairs import noise_of_pairs
from app.training.run import Interrupted, Progress, Run
from app.training.setup import ancestor, past, prepare, provenance
from app.upper.methods.isgd import unmet_condition
from datasets.images import ImageError
from regularizers import Rescaled

log = logging.getLogger("app")

DONE, DIVERGED = 0, 1
JUDGED_BY = ("problem.", "data.validation")  # settings that the held-out PSNR depends on, beside the parameters


@contextmanager
def begin(
    config: Config, folder: Path, data_root: Path, command: str = UNKNOWN, processes: Processes = ALONE
) -> Iterator[tuple[Run, Progress]]:
    """Begin a run in a folder that is held for as long as the context lasts. command: what the user typed. Raises
    RunError."""
    config, model = start.begin(config)
    run = prepare(config, model, folder, data_root, processes)
    run = replace(run, provenance=provenance(ancestor(config.regularizer.start), command, run))
    with owned(folder) if processes.first else nullcontext():
        yield run, stored.begin(run)


@contextmanager
def restore(
    config: Config, folder: Path, data_root: Path, command: str = UNKNOWN, accept_changes: bool = False,
    processes: Processes = ALONE,
) -> Iterator[tuple[Run, Progress]]:  # fmt: skip
    """Restore a run from its last checkpoint, in a folder that is held for as long as the context lasts. Raises
    RunError."""
    with owned(folder) if processes.first else nullcontext():
        processes.numbers(0)  # nobody reads before the folder is held
        config = start.anchored(config)
        run = prepare(config, build_model(config), folder, data_root, processes)
        changed = differences(start.anchored(load(folder / "config.toml")), config)
        if (accept_changes or changed) and processes.first:
            _log_to(folder / "log.txt")  # which shall say what was accepted
        other = any(text.startswith(JUDGED_BY) for text in changed)
        progress = stored.restore(run, accept_changes, other)
        run = replace(run, provenance=provenance(past(folder), command, run))
        processes.numbers(0)  # nobody writes before all have read
        if changed:
            log.info("%s: settings are others from step %d on: %s", folder, progress.step, "; ".join(changed))
        stored.write_config(run)
        if accept_changes:
            stored.save(run, progress)
        yield run, progress


def settings_held(folder: Path, config: Config) -> Config | None:
    """Return the settings of the run that a folder holds, with the architecture that it began with; None if it holds
    none. Raises RunError where they are others than these."""
    if not (folder / "config.toml").is_file():
        return None
    check_settings(folder, config)
    return load(folder / "config.toml")


def finish(config: Config, folder: Path, data_root: Path, quiet: bool, command: str) -> int:
    """Train to the end from wherever the run in the folder is, and return DONE or DIVERGED. Raises RunError where the
    folder holds a run with other settings."""
    held = settings_held(folder, config)
    try:
        opened = restore if held else begin
        with opened(held or config, folder, data_root, command) as (run, progress):
            train(run, progress, data_root, quiet)
            return DONE
    except NonFiniteError as error:
        log.info("%s diverged: %s", folder, error)
        return DIVERGED


def check_settings(folder: Path, config: Config) -> None:
    """Raise RunError where a run in the folder has other settings."""
    if start.anchored(load(folder / "config.toml")) != start.inherited(config):
        raise RunError(f"{folder} holds a run with other settings: remove it, or choose another --out")


def finish_all(
    groups: dict[str, list[tuple[str, Config]]], out: Path, data_root: Path, quiet: bool, command: str
) -> dict[str, list[Path]]:
    """Train the runs (name, settings) of every label to their ends, and return the folders of those that did not
    diverge."""
    finished: dict[str, list[Path]] = {label: [] for label in groups}
    for label, runs in groups.items():
        for name, config in runs:
            log.info("%s: %s", label, out / name)
            if finish(config, out / name, data_root, quiet, command) == DONE:
                finished[label].append(out / name)
    return finished


def train(run: Run, progress: Progress, data_root: Path, quiet: bool) -> None:
    """Train to the end, and say so in the log. Raises Interrupted, NonFiniteError and ImageError."""
    if run.processes.first:
        _log_to(run.folder / "log.txt")
    log.info("%s: %d training images, %d learned parameters, %s at step %d",
             run.folder, len(run.problem), run.model.learned, _bounds(run), progress.step)  # fmt: skip
    if (noise := noise_of_pairs(run.problem)) is not None:
        log.info(
            "noise level of the pairs: %.3g (y - A x); problem.noise_level = %.3g", noise, run.config.problem.level
        )
    for note in assemble.file_notes(run.config, data_root):
        log.info("%s", note)
    _log_kernel_error(run, data_root)
    upper = run.config.upper
    if isinstance(upper, IsgdOptions) and upper.schedule == "polynomial":
        log.info("%s", unmet_condition(upper.step_decay, upper.accuracy_decay) or "the schedules meet the theory")
    try:
        progress = stored.train(run, progress, quiet)
    except Interrupted:
        log.info("stopped after a whole step; continue with: python -m app resume %s", run.folder)
        raise
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; the last good state is saved in {run.folder}") from None
    except ImageError as error:
        kept = "the steps before are" if run.processes.count == 1 else "the last checkpoint is"
        raise ImageError(f"{error}; {kept} saved in {run.folder}") from None
    log.info("done: %d steps, %.0f s, %d computations, %s",
             progress.step, progress.seconds, progress.computations, _bounds(run))  # fmt: skip
    if isinstance(run.model.regularizer, Rescaled):
        log.info("%s", run.model.regularizer.described())
    _log_kernel_error(run, data_root)


def _bounds(run: Run) -> str:
    mu, largest = run.bounds
    return f"mu = {mu:.3g}, L = {largest:.3g}" + ("" if mu > 0 else f" ({NOT_CERTIFIED})")


def _log_kernel_error(run: Run, data_root: Path) -> None:
    error = assemble.learned_kernel_error(run.config, run.model, data_root)
    if error is not None:
        log.info("kernel error ||k - k_true|| / ||k_true|| = %.3f", error)


class _Console(logging.StreamHandler):
    """Says what happens to whoever still reads it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without a reader that has gone, such as `head`; other errors are told as logging tells them."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def _log_to(file: Path) -> None:
    """Say what happens on stdout and in the run's log; one run at a time."""
    log.setLevel(logging.INFO)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    write_own(file, file.read_bytes() if file.is_file() and not file.is_symlink() else b"")
    for handler in (logging.FileHandler(file, encoding="utf-8"), _Console(sys.stdout)):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(handler)
