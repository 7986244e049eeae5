"""Temporary files and folders that are locked while they are written: one that is not was left behind by a killed
process, on whatever machine that ran, and is removed."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def create(target: Path) -> tuple[int, Path]:
    """Make a locked temporary file .NAME.RANDOM.tmp beside its target, with the mode that umask leaves, and return its
    descriptor and name. Raises OSError."""
    while True:
        path = target.with_name(f".{target.name[:60]}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        if lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)  # another process took it for a leftover before it was locked


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Take away those of the paths, links never followed, that no process has locked."""
    for path in paths:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if lock(descriptor):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Mark a temporary folder as one that is in use, for as long as the context lasts."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool | None:
    """Take the lock of an open file, and return whether it was free; None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
