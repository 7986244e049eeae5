"""What torchrun says about this process, before torch is imported: its rank, and that only rank 0 may speak."""

import os
import sys

_stderr: int | None = None  # of the user, while this process is silent


def launched() -> bool:
    """Tell whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "WORLD_SIZE" in os.environ


def several() -> bool:
    """Tell whether torchrun started others with this one."""
    return launched() and int(os.environ["WORLD_SIZE"]) > 1


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def processes_here() -> int:
    """Return how many processes of this program torchrun started on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched() else 1


def silence_all_but_first() -> None:
    """Keep ranks above 0 from printing, whoever prints: Python, compiled code, or a progress bar."""
    global _stderr
    if not several() or os.environ["RANK"] == "0" or _stderr is not None:
        return
    _stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def speak() -> None:
    """Print errors again: all ranks below this one are lost."""
    if _stderr is not None:
        sys.stderr.flush()
        os.dup2(_stderr, 2)
