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
    return _to_the_end(*session.begin(config, folder, data_root, command), data_root, quiet)


def resume(config: Config, folder: Path, data_root: Path, quiet: bool, command: str) -> int:
    """Continue a run, and return the exit code. Raises RunError."""
    return _to_the_end(*session.restore(config, folder, data_root, command), data_root, quiet)


def _to_the_end(run: Run, progress: Progress, data_root: Path, quiet: bool) -> int:
    status = session.train(run, progress, data_root, quiet)
    if status == session.DONE:
        for name in draw_run(run, data_root):
            log.info("%s", run.folder / name)
    return status
