"""Training by several processes on one machine: against the threads of one (strong), and with as many images for each
(weak).

    strong speed = (s of a step, one process of n threads) / (s of a step, n processes of one thread),  the same batch
    weak speed   = (s of a step, one process, B images)    / (s of a step, n processes, n B images),    one thread each

Seconds of a step are the median over the steps of whole runs, which are made in turns. With more processes than cores,
the weak speed can be at most cores / processes.
"""

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from app.training import records
from scripts.ranking import start

IMAGES = 8  # B
COUNTS = (1, 2, 4)  # processes
STEPS, WARM = 24, 4  # of a run, and the first of them that are left out
SET = (
    "data.images=builtin:train data.validation=builtin:test data.patch_size=96 data.noise=fixed run.validate_every=0 "
    "regularizer.filters=24 upper.schedule=constant run.device=cpu"
)

Way = tuple[str, int, int, int]  # what it is compared with, processes, threads of each, images of a step


def ways() -> list[Way]:
    """Return what is timed; the first of a kind is what the others are compared with."""
    strong = [("strong", n, max(COUNTS[:2]) // n, 2 * IMAGES) for n in COUNTS[:2]]
    return [*strong, *(("weak", n, 1, n * IMAGES) for n in COUNTS)]


def shared_training(repetitions: int = 3, steps: int = STEPS) -> Iterator[dict[str, Any]]:
    """Yield a row for each way."""
    times: dict[Way, list[float]] = {way: [] for way in ways()}
    for _ in range(repetitions):
        for way, found in times.items():
            found += seconds_of_steps(*way[1:], steps)
    first: dict[str, float] = {}
    for (kind, processes, threads, images), found in times.items():
        step = median(found)
        yield {
            "scaling": kind, "processes": processes, "threads of each": threads, "images a step": images,
            "s a step": step, "images/s": images / step, "speed": first.setdefault(kind, step) / step,
        }  # fmt: skip


def seconds_of_steps(processes: int, threads: int, images: int, steps: int) -> list[float]:
    """Train so many steps by as many processes, and return the seconds of each step but the first ones. Raises
    RuntimeError where training fails."""
    settings = [*SET.split(), f"upper.batch_size={images}", f"run.steps={steps}"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = ["train", "foe-denoise", "--quiet", "--out", str(run), *(w for s in settings for w in ("--set", s))]
        process = start(processes, ["app", *words], threads=threads)
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"training by {processes} processes failed: {errors[-500:]}")
        return [b - a for a, b in pairwise(records.read(run / "metrics.csv")["seconds"])][WARM:]
