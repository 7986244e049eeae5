"""What is known of image files without reading them again: pixels, SHA-256, and how alike one of BSD68 they are.

    what was read holds  <=>  (bytes, modified, changed) of the file are what they were,
                              and it was read later than SETTLED after it changed

The three numbers are what the system tells of a file without opening it; every write moves the last one, which no
program can set. A file is read again where they differ. SETTLED rules out a second change that the clock of the file
system cannot tell from the first. One file for each folder of images keeps what is known, in the user's cache:

    $XDG_CACHE_HOME/bilevel-regularizers/images/HASH.npz          (~/.cache where the variable is not set)

It holds numbers and names only. Where it cannot be written, is damaged or lost, images are read anew.
"""

import hashlib
import io
import logging
import os
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from datasets.files import printable
from datasets.images import ImageError, decode_pixels, read_bytes
from datasets.likeness import HASHES, likeness_of_pixels
from datasets.temporary import create

log = logging.getLogger(__name__)

FACTS = np.dtype(
    [
        ("bytes", "<i8"), ("modified", "<i8"), ("changed", "<i8"), ("looked", "<i8"),  # the last three in ns
        ("height", "<i4"), ("width", "<i4"), ("channels", "<i4"), ("depth", "<i4"),  # depth: 8, 16 bits, 0: others
        ("alike", "<f4"), ("sha256", "u1", 32),
    ]
)  # fmt: skip
STATE = ("bytes", "modified", "changed")
UNREAD = np.zeros((), FACTS)  # of a file that cannot be read: its height is 0
SETTLED = 2 * 10**9  # ns; file systems count time in steps of up to two seconds
KEPT = 100  # new images, fewer of which are read again in a second
TOLD = 1000  # new images, fewer of which are read in less than a minute
SAVED = 60.0  # seconds after which what was read is saved, so that a killed program does not read it again
TOGETHER = 1024  # images that are handed to the threads at once


def facts_of(paths: Sequence[Path]) -> np.ndarray:  # -> (N,) of FACTS
    """Return what is known of files, in their order. Those that are new or have changed are read, on all cores; height
    is 0 where that fails, and reading them as images says why."""
    facts = np.zeros(len(paths), FACTS)
    folders: dict[str, tuple[list[int], list[str]]] = {}
    for n, path in enumerate(paths):
        folder, name = os.path.split(path)
        places, names = folders.setdefault(folder, ([], []))
        places.append(n)
        names.append(name)
    for folder, (places, names) in folders.items():
        facts[places] = _known(os.path.abspath(folder), _cache()).look(names)
    return facts


def digests(facts: np.ndarray) -> list[str]:  # (N,) of FACTS -> N
    """Return the SHA-256 of files in hexadecimal."""
    return [digest.tobytes().hex() for digest in facts["sha256"]]


def unchanged(path: Path, fact: np.ndarray) -> bool:
    """Return whether a file that was just read is the one whose facts these are. Raises OSError."""
    if _state(path) == tuple(fact[name] for name in STATE):
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == fact["sha256"].tobytes()


def threads() -> int:
    """Return on how many cores images are decoded."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


@dataclass
class _Folder:
    """What is known of the files of one folder, by name, and the file that keeps it."""

    path: str
    file: Path
    rows: np.ndarray  # (n,) of FACTS
    places: dict[str, int]  # of names in rows

    def look(self, names: list[str]) -> np.ndarray:  # -> (N,) of FACTS
        """Return what is known of files now."""
        states = np.array([_state_or_none(os.path.join(self.path, name)) for name in names], np.int64)
        rows = np.array([self.places.get(name, -1) for name in names], int)
        before = self.rows[rows] if len(self.rows) else np.zeros(len(names), FACTS)
        same = (rows >= 0) & (before["looked"] > before["changed"] + SETTLED)
        for n, part in enumerate(STATE):
            same &= states[:, n] == before[part]
        facts = np.where(same, before, UNREAD)
        if not same.all():
            self._read(names, np.flatnonzero(~same), facts)
        return facts

    def _read(self, names: list[str], new: np.ndarray, facts: np.ndarray) -> None:
        """Find the facts of files that are new or have changed."""
        if len(new) >= TOLD:
            log.warning("%s: %d images are new; each is read once now", printable(self.path), len(new))
        saved, pool = time.monotonic(), ThreadPoolExecutor(threads())
        try:
            for start in range(0, len(new), TOGETHER):
                part = new[start : start + TOGETHER]
                facts[part] = list(pool.map(_examined, [os.path.join(self.path, names[n]) for n in part]))
                self._note([names[n] for n in part], facts[part])
                if time.monotonic() - saved > SAVED:
                    self._save()
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            if len(new) >= KEPT:
                self._save()

    def _note(self, names: list[str], facts: np.ndarray) -> None:
        unknown = [name for name in names if name not in self.places]
        self.places |= {name: len(self.rows) + n for n, name in enumerate(unknown)}
        self.rows = np.concatenate([self.rows, np.zeros(len(unknown), FACTS)])
        self.rows[[self.places[name] for name in names]] = facts

    def _save(self) -> None:
        """Replace the file that keeps what is known; nothing where that cannot be, which costs time only."""
        data = io.BytesIO()
        names = np.frombuffer(b"\0".join(map(os.fsencode, self.places)), np.uint8)
        np.savez(data, version=_version(), names=names, rows=self.rows)
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, temporary = create(self.file)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data.getbuffer())
                    os.replace(temporary, self.file)
            finally:
                temporary.unlink(missing_ok=True)


@lru_cache(maxsize=16)
def _known(folder: str, kept: Path) -> _Folder:
    file = kept / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.npz"
    empty = np.zeros(0, FACTS)
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(file) as found:
        names = list(map(os.fsdecode, found["names"].tobytes().split(b"\0")))
        rows = found["rows"]
        if found["version"] == _version() and rows.dtype == FACTS and rows.shape == (len(names),):
            return _Folder(folder, file, rows, {name: n for n, name in enumerate(names)})
    return _Folder(folder, file, empty, {})


def _cache() -> Path:
    """The folder for what is known of images; it stays ~ for users without a home."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "bilevel-regularizers" / "images"


@cache
def _version() -> str:
    """What facts mean: other signs of BSD68, or other facts, are another version."""
    return hashlib.sha256(HASHES.read_bytes() + str(FACTS).encode()).hexdigest()


def _examined(path: str) -> np.ndarray:  # -> () of FACTS
    fact = UNREAD.copy()
    with suppress(OSError, ImageError):
        looked, state = time.time_ns(), _state(path)
        data = read_bytes(Path(path))
        pixels = decode_pixels(data, Path(path))
        depth = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}.get(pixels.dtype, 0)
        fact[()] = (
            *state, looked, *pixels.shape, depth, likeness_of_pixels(pixels),
            np.frombuffer(hashlib.sha256(data).digest(), np.uint8),
        )  # fmt: skip
    return fact


def _state(path: str | Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _state_or_none(path: str) -> tuple[int, int, int]:
    try:
        return _state(path)
    except OSError:
        return -1, -1, -1
