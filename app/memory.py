"""Memory of the process: keep what is freed, and know how much there is.

A solver allocates and frees the same megabytes thousands of times. By default glibc hands such blocks back to the
system each time, and every fresh page costs a fault.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from app.ranks import processes_here

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> None:
    """Raise glibc's thresholds for this process; elsewhere do nothing."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_TOP_PAD, 1 << 28)


def usable_memory() -> float:
    """Return the bytes of memory that this process may use: those of the machine, or of the container or job that it is
    in; infinity where the system does not tell."""
    return min([_physical(), *_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def memory_for_images() -> float:
    """Return how many bytes of images a program keeps unless it is told: a quarter of the memory, shared by the
    processes that torchrun began on this machine."""
    return usable_memory() / 4 / processes_here()


def _physical() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return float("inf")


def _limits(groups: Path, mounted: Path) -> Iterator[float]:
    """Yield the limits of the control groups that hold this process, versions 1 and 2, and of those around them."""
    try:
        lines = [line.split(":", 2)[1:] for line in groups.read_text().splitlines()]
    except OSError:
        return
    for controllers, own in lines:
        root, name = (mounted / "memory", "memory.limit_in_bytes") if controllers else (mounted, "memory.max")
        if controllers and "memory" not in controllers.split(","):
            continue
        place = root / own.lstrip("/")
        for folder in (place, *place.parents):
            with suppress(OSError, ValueError):  # "max" is no number, and a container sees its own group as the root
                yield float(int((folder / name).read_text()))
            if folder == root:
                break
