"""`train` and `resume`."""

import logging
from pathlib import Path

from app.assemble import device_of
from app.drawing.run import draw_run
from app.processes import joined
from app.settings.options import Config
from app.training import session
from app.training.run import Progress, Run

log = logging.getLogger("app")


def train(config: Config, folder: Path, data_root: Path, quiet: bool, command: str) -> int:
    """Learn a regularizer, and return the exit code. What torchrun has started anew goes on with the run of these
    settings that the folder holds. Raises the errors of `session.begin`, and ProcessError."""
    with joined(device_of(config), config.run.timeout) as processes:
        held = processes.of_first(session.settings_held(folder, config) if processes.restarted else None)
        opened = session.restore if held else session.begin
        with opened(held or config, folder, data_root, command, processes=processes) as (run, progress):
            return _to_the_end(run, progress, data_root, quiet)


def resume(
    config: Config, folder: Path, data_root: Path, quiet: bool, command: str, accept_changes: bool = False
) -> int:
    """Continue a run, and return the exit code. Raises RunError and ProcessError."""
    with (
        joined(device_of(config), config.run.timeout) as processes,
        session.restore(config, folder, data_root, command, accept_changes, processes) as (run, progress),
    ):
        return _to_the_end(run, progress, data_root, quiet)


def _to_the_end(run: Run, progress: Progress, data_root: Path, quiet: bool) -> int:
    session.train(run, progress, data_root, quiet)
    for name in draw_run(run, data_root) if run.processes.first else ():
        log.info("%s", run.folder / name)
    return session.DONE
