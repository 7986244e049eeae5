"""Files that are either whole or not there."""

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TextIO

from datasets.temporary import create, remove_leftovers


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file of the user: beside the target, flush to disk, rename. A crash leaves the old file or the new one.

    A link is followed. An old file keeps its mode; that of a new one is what umask leaves. What is no file
    (/dev/stdout, /dev/null, a pipe that is read) is written to as it is. Raises OSError that names the path.
    """
    with _naming(path):
        target = _target(path)
        if target is not None:
            _replace(target, data)
            return
        with os.fdopen(_open_stream(path), "wb") as stream:
            stream.write(data)


def write_own(path: Path, data: bytes) -> None:
    """Write a file of a run folder, atomically. A link there is replaced and never followed, for whoever may write to
    the folder could have put it there; a file that holds the data already is left as it is. Raises OSError."""
    with _naming(path):
        if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
            _replace(path, data)
        else:
            _sync(path)


def append_to_own(path: Path) -> TextIO:
    """Open a file of a run folder, which must exist and be no link, for appending. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    return open(path, "a", encoding="utf-8", opener=lambda name, _: os.open(name, flags))


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_distinct(outputs: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are inputs, or each other, before anything is lost. Raises FileExistsError that names one."""
    used, places = {path.resolve() for path in inputs}, [path.resolve() for path in outputs]
    for n, place in enumerate(places):
        if place in used:
            raise FileExistsError(errno.EEXIST, "an input would be overwritten", str(outputs[n]))
        if place in places[:n]:
            raise FileExistsError(errno.EEXIST, "two results would go to one file", str(outputs[n]))


def check_writable(path: Path) -> None:
    """Find out now, not after minutes, whether `write_atomically` can write here; leave nothing. Raises OSError."""
    with _naming(path):
        target = _target(path)
        if target is not None:
            descriptor, temporary = create(target)
            os.close(descriptor)
            temporary.unlink()


def _target(path: Path) -> Path | None:
    """Return the file to replace; None for what is written to as it is. Raises OSError."""
    if not path.exists():
        if path.is_symlink():
            raise FileNotFoundError(errno.ENOENT, "a link to what does not exist")
        return path
    info = path.stat()
    if _standard_stream(info) or stat.S_ISCHR(info.st_mode) or stat.S_ISFIFO(info.st_mode):
        return None
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "a folder" if path.is_dir() else "not a file")
    return Path(os.path.realpath(path))


def _open_stream(path: Path) -> int:
    """Open a device or pipe; where it is stdout or stderr, after what was printed. Raises OSError where nobody reads a
    pipe."""
    if number := _standard_stream(path.stat()):
        (sys.stdout if number == 1 else sys.stderr).flush()
        return os.dup(number)
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(descriptor, True)
    return descriptor


def _standard_stream(info: os.stat_result) -> int:
    """Return 1 for stdout, 2 for stderr, else 0."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), info):
                return number
    return 0


def _replace(target: Path, data: bytes) -> None:
    remove_leftovers(target.parent.glob(f".{escape(target.name[:60])}.{'[0-9a-f]' * 8}.tmp"))
    descriptor, temporary = create(target)
    try:
        with os.fdopen(descriptor, "wb") as file:  # locked until it is closed
            with suppress(FileNotFoundError):
                old = target.lstat().st_mode
                if stat.S_ISREG(old):
                    os.fchmod(descriptor, old & 0o777)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk as far as the file system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors name this path, not a temporary file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
