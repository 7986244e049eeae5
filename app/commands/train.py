"""`train` and `resume`."""

import logging
from pathlib import Path

from app.drawing.run import draw_run
from app.settings.options import Config
from app.training import session
from app.training.run import Progress, Run

log = logging.getLogger("app")


def train(config: Config, folder: Path, data_root: Path, quiet: bool, command: str) -> int:
    """Learn a regularizer, and return the exit code. Raises the errors of `session.begin`."""
    with session.begin(config, folder, data_root, command) as (run, progress):
        return _to_the_end(run, progress, data_root, quiet)


def resume(
    config: Config, folder: Path, data_root: Path, quiet: bool, command: str, accept_changes: bool = False
) -> int:
    """Continue a run, and return the exit code. Raises RunError."""
    with session.restore(config, folder, data_root, command, accept_changes) as (run, progress):
        return _to_the_end(run, progress, data_root, quiet)


def _to_the_end(run: Run, progress: Progress, data_root: Path, quiet: bool) -> int:
    session.train(run, progress, data_root, quiet)
    for name in draw_run(run, data_root):
        log.info("%s", run.folder / name)
    return session.DONE
