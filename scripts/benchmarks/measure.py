"""Measurements of time, of memory and of the speed of this machine."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import deepinv
import torch

from app.models.provenance import processor


def synchronize(device: torch.device) -> None:
    """Ensure that the work of a CUDA device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, *functions: Callable[[], object], repetitions: int = 15) -> list[float]:
    """Measure the median time of each in seconds, in turns, so that a slow moment of the machine meets all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for repetition in range(repetitions + 1):  # the first is a warm-up
        for function, found in zip(functions, times, strict=True):
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if repetition:
                found.append(time.perf_counter() - start)
    return [median(found) for found in times]


def matrix_product_rate(device: torch.device) -> float:
    """Measure the flop / s of a float32 product of 2048 x 2048 matrices."""
    a, b = torch.randn(2, 2048, 2048, device=device)
    return 2 * 2048**3 / seconds(device, lambda: a @ b)[0]


def copy_rate(device: torch.device) -> float:
    """Measure the byte / s, read and written, of a copy of 256 MB."""
    a = torch.empty(1 << 26, device=device)
    b = torch.empty_like(a)
    return 2 * 4 * a.numel() / seconds(device, lambda: b.copy_(a))[0]


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Yield a list that afterwards holds the bytes allocated at the peak beyond those at the start."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    statm, page, done = Path("/proc/self/statm"), 4096, threading.Event()
    before = peak = int(statm.read_text().split()[1])

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, int(statm.read_text().split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found.append((peak - before) * page)


def machine(device: torch.device) -> str:
    """Name the processor and the versions of torch and deepinv."""
    return f"{processor(device)}; torch {torch.__version__}, deepinv {deepinv.__version__}"
