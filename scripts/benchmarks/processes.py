"""Two programs side by side on one machine: how much longer they take than one alone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from app.__main__ import WAITING
from datasets.image_sets import find_images

ROOT = Path(__file__).parents[2]
IMAGE = str(find_images("builtin:test", Path(), False).paths[1])
COMMAND = ("-m", "app", "evaluate", "foe-denoise-grey-25", "--images", IMAGE, "--quiet")
WAYS = {"sleep, as the program sets it": {}, "spin, as libgomp does": {"GOMP_SPINCOUNT": "300000"}}


def side_by_side(command: tuple[str, ...] = COMMAND, repetitions: int = 3) -> Iterator[dict[str, Any]]:
    """Yield a row for each way in which threads wait: medians of whole programs, in turns, and of their ratios."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for repetition in range(repetitions + 1):  # the first compiles and warms up
        for name, variables in WAYS.items():
            found = _seconds(command, variables, 1), _seconds(command, variables, 2)
            if repetition:
                times[name].append(found)
    for name, pairs in times.items():
        yield {
            "threads that wait": name, "alone (s)": median(one for one, _ in pairs),
            "two at once (s)": median(two for _, two in pairs), "factor": median(two / one for one, two in pairs),
        }  # fmt: skip


def _seconds(command: tuple[str, ...], variables: dict[str, str], count: int) -> float:
    """How long so many programs take that begin together."""
    environment = {k: v for k, v in os.environ.items() if k not in WAITING} | variables
    start = time.perf_counter()
    programs = [
        subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    codes = [program.wait() for program in programs]
    if any(codes):
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - start
