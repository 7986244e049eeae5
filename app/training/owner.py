"""One process at a time owns a run folder: it locks the file .lock, which says who that is.

The lock ends with the process, however that ends. A file that is left behind locks nothing. Where a file system knows
no locks, there is none.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from app.training.checkpoint import RunError
from datasets.temporary import lock, remove_leftovers

LOCK = ".lock"
# What a killed writer of a run's files leaves: names of this version, and of earlier ones.
LEFTOVERS = re.compile(r"\..+(\.[0-9a-f]{8}\.tmp|\.(toml|csv|json|safetensors)\.[a-z0-9_]{8})")
SINCE = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a run folder as its only owner for as long as the context lasts. It is made if it is not there, and what a
    killed owner left half written is removed. Raises RunError that names its owner where it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint"
    if checkpoint.is_symlink():
        raise RunError(f"{checkpoint} is a link: a run folder holds its files itself")
    descriptor = _lock(folder)
    try:
        remove_leftovers(p for part in (folder, checkpoint) for p in part.glob(".*") if LEFTOVERS.fullmatch(p.name))
        yield
    finally:
        with suppress(RunError, OSError):
            check(folder)
            (folder / LOCK).unlink()
        os.close(descriptor)


def check(folder: Path) -> None:
    """Raise RunError where the folder is no longer the one that this process owns."""
    with suppress(OSError, UnicodeDecodeError):
        if (folder / LOCK).read_text() == _me():
            return
    raise RunError(f"{folder} was removed, renamed or taken by another process while this one wrote to it")


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {SINCE}"


def _lock(folder: Path) -> int:
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if lock(descriptor) is False:
            owner = os.read(descriptor, 500).decode(errors="replace")
            os.close(descriptor)
            raise RunError(f"{folder} is in use by {owner or 'another process'}")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)  # the last owner has just removed this file
    os.ftruncate(descriptor, 0)
    os.write(descriptor, _me().encode())
    return descriptor
