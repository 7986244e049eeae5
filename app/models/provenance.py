"""What a model was made with: machine, versions, date."""

import os
import platform
import tomllib
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import deepinv
import torch

UNKNOWN = "not recorded"


def processor(device: torch.device) -> str:
    """Return the GPU, or the CPU and how many threads of it compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu()}, {threads} thread{'s' if threads > 1 else ''}"


def contention() -> str:
    """Return a note that more processes want to run than there are cores, without which a time says little; else ""."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f", shared with other work (load {load:.0f} on {cores} cores)" if load > cores + 1 else ""


@cache
def versions() -> dict[str, str]:
    """Return the versions of torch, deepinv and the program."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"torch": torch.__version__, "deepinv": deepinv.__version__, project["name"]: project["version"]}


def today() -> str:
    """Return the date in UTC, as 2025-06-30."""
    return datetime.now(UTC).date().isoformat()


@cache
def _cpu() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
