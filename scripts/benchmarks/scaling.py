"""How the cost of a training step grows, and what many devices would make of it.

    t(v) ~ v^p,                     p = log(t(v) / t(v_0)) / log(v / v_0),    each size v varied alone
    step(n) = max(t(B) + reduce(n), B decode),    n devices, B images on each, decoding behind the computation
    reduce(n) = 2 (n - 1) (bytes of theta / n / bandwidth + latency),    a ring that sums one gradient over all devices

t and decode are measured here; what is not is in a table of assumptions. The reduction is simulated, not run.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from deepinv.physics import Denoising
from torch import Tensor

from app.problem.problem import Problem
from app.training.fit import hypergradient
from datasets.image_sets import find_images
from datasets.images import ImageError, read_compact
from datasets.index import threads
from regularizers import Adaptive, FieldOfExperts, Regularizer
from scripts.benchmarks.measure import seconds
from scripts.benchmarks.problems import NOISE_LEVEL, photographs, trained

ACCURACY = 0.1 / 64  # of ||x - argmin h|| per side in pixels: as tight for each pixel at every size
BATCH, SIDE, FILTERS = 4, 48, 24  # what is not varied
DEVICES, IMAGES = (1, 8, 64), 10**6
BANDWIDTH, LATENCY = 25e9, 20e-6  # byte / s and s of one hop between devices: 200 Gbit/s
PER_DEVICE = 8  # images of a step

Rows = Iterator[dict[str, Any]]
Step = Callable[[], object]


def step_of(regularizer: Regularizer, clean: Tensor) -> Step:  # (B, C, H, W)
    """Return what computes one hypergradient of the mean loss over a batch, noise and solves included."""
    regularizer = regularizer.to(clean.device)
    problem = Problem(Denoising(), clean=clean.cpu(), noise_level=NOISE_LEVEL, device=clean.device)
    return partial(hypergradient, regularizer, problem, accuracy=ACCURACY * clean.shape[-1])


def growth(data_root: Path, device: torch.device, repetitions: int = 5) -> Rows:
    """Time a step where one size varies: against the smallest one, as a ratio and as an exponent."""

    def clean(batch: int = BATCH, side: int = SIDE) -> Tensor:
        return photographs(data_root, batch, side, device)

    def field(filters: int = FILTERS, **more: Any) -> FieldOfExperts:
        return FieldOfExperts(1, filters, 7, boundary="reflect", **more)

    def grouped(size: int) -> FieldOfExperts:
        return FieldOfExperts(1, FILTERS, 7, "mcp", weight=0.05, group_size=size)

    axes: dict[str, tuple[tuple[int, ...], Callable[[int], Step]]] = {
        "images of a batch": ((1, 2, 4, 8), lambda v: step_of(field(), clean(batch=v))),
        "pixels of an image": ((32**2, 64**2, 128**2), lambda v: step_of(field(), clean(side=math.isqrt(v)))),
        "filters": ((12, 24, 48), lambda v: step_of(field(v), clean())),
        "group_size": ((1, 2, 4), lambda v: step_of(grouped(v), clean())),
        "updates": ((1, 2, 4), lambda v: step_of(Adaptive(trained("convex", device), 8, updates=v), clean())),
    }
    for name, (values, of) in axes.items():
        times = seconds(device, *map(of, values), repetitions=repetitions)
        for value, spent in zip(values, times, strict=True):
            ratio = spent / times[0]
            exponent = math.log(ratio) / math.log(value / values[0]) if value > values[0] else ""
            yield {"varied": name, "value": value, "ms": 1e3 * spent, "ratio": ratio, "exponent": exponent}


def assumptions(data_root: Path) -> Rows:
    """Say what the plan takes from elsewhere, and what it measures of the image files."""
    decode, size = image_costs(data_root)
    yield {"what": "bandwidth between devices (GB/s)", "value": BANDWIDTH / 1e9, "from": "assumed, 200 Gbit/s"}
    yield {"what": "latency of one hop (us)", "value": 1e6 * LATENCY, "from": "assumed"}
    yield {"what": "every device as fast as this one", "value": "yes", "from": "assumed"}
    yield {"what": "devices wait for the slowest", "value": "no", "from": "assumed: equal steps"}
    yield {"what": "storage gives what is read", "value": "yes", "from": "assumed: see MB/s read in the plan"}
    yield {"what": "cores that decode, for each device", "value": threads(), "from": "this machine"}
    yield {"what": "bytes of an image file (kB)", "value": size / 1e3, "from": "measured"}
    yield {"what": "reading and decoding an image (ms)", "value": 1e3 * decode, "from": "measured, one core"}


def plan(data_root: Path, device: torch.device, repetitions: int = 5) -> Rows:
    """Say how long an epoch of IMAGES takes on some numbers of devices, with PER_DEVICE images on each."""
    regularizer = trained("convex", device)
    clean = photographs(data_root, PER_DEVICE, 64, device)
    (compute,) = seconds(device, step_of(regularizer, clean), repetitions=repetitions)
    theta = sum(p.numel() * p.element_size() for p in regularizer.parameters())
    decode, size = image_costs(data_root)
    for n in DEVICES:
        reduction = reduction_seconds(theta, n)
        step = max(compute + reduction, PER_DEVICE * decode / threads())
        rate = n * PER_DEVICE / step
        yield {
            "devices": n, "images a step": n * PER_DEVICE,
            "step (ms)": 1e3 * step, "of it reduction (ms)": 1e3 * reduction, "kB reduced": theta / 1e3,
            "MB read a step": n * PER_DEVICE * size / 1e6, "MB/s read": rate * size / 1e6,
            "hours for 10^6 images": IMAGES / rate / 3600, "efficiency": compute / step,
        }  # fmt: skip


def reduction_seconds(size: float, devices: int) -> float:
    """Return how long a ring takes to sum so many bytes over devices, in two rounds of (n - 1) hops."""
    return 2 * (devices - 1) * (size / devices / BANDWIDTH + LATENCY)


def image_costs(data_root: Path) -> tuple[float, float]:
    """Return the mean seconds to read and decode an image, and the mean bytes of its file."""
    try:
        paths = find_images("bsds500:train", data_root, True).paths[:32]
    except ImageError:
        paths = find_images("builtin:train", data_root, False).paths
    times = []
    for path in paths:
        start = time.perf_counter()
        read_compact(path, False)
        times.append(time.perf_counter() - start)
    return fmean(times), fmean(path.stat().st_size for path in paths)
