"""Several processes against one: the same numbers, whatever their count, and nothing lost where one is killed.

For each method, N processes must reach the rows and parameters of one up to rounding, relative to their size,

    |a - b| <= TOLERANCE max |b|,

and whatever rank is killed, whenever, the run must end with one line, leave a whole checkpoint, and resume to the same
bits.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import app.commands.train
from app.cli import main
from app.interrupt import install
from app.models.sealed import read
from app.settings.methods import METHODS as ALL
from app.settings.methods import FullBatchOptions
from app.training import records
from figures.table import pipes

TOLERANCE = 1e-6  # in float64
METHODS = ("isgd", "maid", "meha", "stocbio", "amigo", "gd_polyak", "hoag")
SMALL = (
    *("data.images=builtin:train", "data.validation=builtin:test", "data.patch_size=16", "data.validation_crop=16"),
    *("data.noise=fixed", "regularizer.filters=4", "regularizer.filter_size=3"),
    *("run.precision=float64", "run.device=cpu", "run.checkpoint_every=3", "run.validate_every=2", "run.timeout=60"),
)
FULL_BATCH = [method.algorithm for method in ALL if issubclass(method, FullBatchOptions)]
BATCH = 5  # images that neither 2 nor 4 divide
STARTED = re.compile(r"^.*: \d+ training images.*$", re.M)


def settings(method: str, steps: int) -> list[str]:
    """Return the arguments of `train` for a small run, whose first steps do not depend on how many follow."""
    drawn = [] if method in FULL_BATCH else [f"upper.batch_size={BATCH}", "upper.schedule=constant"]
    assigned = [*SMALL, f"run.steps={steps}", f"upper.algorithm={method}", *drawn]
    return [word for assignment in assigned for word in ("--set", assignment)]


def train(folder: Path, steps: int, methods: list[str]) -> int:
    """Train by one method after the other, each to its end, in this process or as one of several, and return the exit
    code. What is there already goes on; what torchrun has started anew finds that out itself."""
    anew = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    known = [method for method in methods if (folder / method / "config.toml").is_file() and not anew]
    for method in methods:
        out = str(folder / method)
        more = ["--quiet", *settings(method, steps)]
        if code := main(["resume", out, *more] if method in known else ["train", "foe-denoise", "--out", out, *more]):
            return code
    return 0


def start(ranks: int, words: list[str], more: tuple[str, ...] = (), threads: int = 1) -> subprocess.Popen[str]:
    """Start a module with its arguments in so many processes, with this many threads each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), *more, "-m", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    own = {"OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(torchrun, env=os.environ | own, text=True, **pipes)  # type: ignore[call-overload]


def trained(ranks: int, folder: Path, steps: int, methods: list[str]) -> str:
    """Train in so many processes, and return "", or what went wrong."""
    process = start(ranks, ["scripts.ranking", "train", str(folder), str(steps), *methods])
    _, errors = process.communicate()
    return errors if process.returncode else ""


def numbers(folder: Path) -> dict[str, Tensor]:
    """Return the columns of metrics.csv, without seconds, and the tensors of the checkpoint (...) of a run."""
    columns = records.read(folder / "metrics.csv")
    _, tensors = read(folder / "checkpoint" / "state.safetensors")
    found = {name: torch.tensor(values) for name, values in columns.items() if name != "seconds"}
    return found | {name: t for name, t in tensors.items() if name != "books.rows"}


def difference(folder: Path, other: Path) -> float:
    """Return the largest difference of two runs, relative to the largest entry of each column or tensor."""
    ours, theirs = numbers(folder), numbers(other)
    if ours.keys() != theirs.keys() or any(t.shape != theirs[name].shape for name, t in ours.items()):
        return float("inf")
    return max(_relative(t.double(), theirs[name].double()) for name, t in ours.items())


def _relative(a: Tensor, b: Tensor) -> float:  # (...), (...)
    same = (a == b) | (a.isnan() & b.isnan())
    change = (a - b).abs().masked_fill(same, 0).nan_to_num(torch.inf)
    size = b.abs().nan_to_num(0, 0).max() if b.numel() else torch.tensor(1.0)
    return float(change.max() / size) if change.numel() and change.max() > 0 else 0.0


def killed(ranks: int, folder: Path, steps: int, wait: float, victim: int) -> str:
    """Run, kill one rank so many seconds after a run has begun, resume it with as many processes, and return what was
    wrong, or ""."""
    words = ["scripts.ranking", "train", str(folder), str(steps), "isgd"]
    process = start(ranks, words)
    _wait_for(folder / "isgd" / "log.txt", process)
    time.sleep(wait)
    if (pid := _worker(process.pid, victim)) is None:
        process.communicate()
        return "" if process.returncode == 0 else f"exit code {process.returncode}"
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate()
    lines = [line for line in errors.splitlines() if "ProcessError" in line or line.startswith("error:")]
    if process.returncode and not (len(lines) == 1 and f"rank {victim} (process {pid}" in lines[0]):
        return f"said {lines}"
    return trained(ranks, folder, steps, ["isgd"])


def _wait_for(log: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run has begun, or its process has ended."""
    while process.poll() is None and not (log.is_file() and STARTED.search(log.read_text())):
        time.sleep(0.02)


def _worker(parent: int, rank: int) -> int | None:
    """The process of a rank, None where it has ended."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            own = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if own and f"\0RANK={rank}\0".encode() in (folder / "environ").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return None


def compare(root: Path, steps: int, methods: list[str], counts: list[int]) -> int:
    """Print how far each count of processes is from one, and return how many are too far."""
    failures = 0
    for count in (1, *counts):
        if errors := trained(count, root / str(count), steps, methods):
            print(f"{count} processes failed: {errors[-1000:]}")
            failures += 1
    body = []
    for method in methods:
        found = [difference(root / str(count) / method, root / "1" / method) for count in counts]
        failures += sum(not value <= TOLERANCE for value in found)
        body.append([method, *(f"{value:.1e}" for value in found)])
    print(pipes(["method", *(f"{count} processes" for count in counts)], body), end="", flush=True)
    return failures


def storm(root: Path, kills: int, seed: int, steps: int) -> int:
    """Test so often what the kill of one of two ranks does, at a random moment, and return how often it was wrong."""
    chance, failures = random.Random(seed), 0
    whole = root / "whole"
    errors = trained(2, whole, steps, ["isgd"])
    assert not errors, errors
    seconds = records.read(whole / "isgd" / "metrics.csv")["seconds"][-1]
    for n in range(kills):
        folder, victim = root / f"kill-{n}", chance.randrange(2)
        wrong = killed(2, folder, steps, chance.uniform(0, seconds), victim)
        if not wrong and difference(folder / "isgd", whole / "isgd") != 0:
            wrong = "other bits"
        failures += bool(wrong)
        print(f"{n + 1:4} rank {victim} {wrong or 'same'}", flush=True)
    print(f"{kills} kills, {failures} failures (seed {seed})")
    return failures


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        install()
        app.commands.train.draw_run = lambda *_: []  # figures would take longer than all of a small run
        code = train(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # as app/__main__.py ends
    parser = argparse.ArgumentParser(prog="scripts/ranks", description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=10, help="default: %(default)s")
    parser.add_argument("steps", type=int, nargs="?", default=50, help="of every run (default: %(default)s)")
    parser.add_argument("seed", type=int, nargs="?", default=0)
    known = [method.algorithm for method in ALL]
    parser.add_argument("--methods", nargs="*", choices=known, default=list(METHODS), metavar="METHOD")
    o = parser.parse_args()
    if o.kills < 0 or o.steps < 1:
        parser.error("KILLS must be at least 0, STEPS at least 1")
    with tempfile.TemporaryDirectory() as root:
        wrong = compare(Path(root), o.steps, o.methods, [2, 4]) if o.methods else 0
        wrong += storm(Path(root), o.kills, o.seed, o.steps)
    raise SystemExit(wrong > 0)
