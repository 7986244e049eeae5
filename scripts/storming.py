"""A storm of SIGKILL, SIGTERM and SIGINT at random moments over train, evaluate, reconstruct and compare.

Whatever was killed is resumed or repeated until it ends. Then it must have left the files of a program that was not
killed: the same bits, none half written, none more.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.models.sealed import read
from app.settings.methods import METHODS

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SMALL = (
    "data.images=builtin:train data.validation=builtin:test data.patch_size=32 data.validation_crop=32 data.noise=fixed"
)
STEPS = "run.steps=10 run.checkpoint_every=3"
MODEL, FIELD = "foe-denoise-grey-25", "regularizer.filters=8 regularizer.filter_size=3"
NO_MATTER = ("seconds", "date", "commands", "hardware")  # what differs from one uninterrupted run to the next
Result = dict[str, object]


def commands() -> dict[str, list[str]]:
    """Return what is killed, by name; the place of its output comes last."""

    def train(settings: str = "") -> list[str]:
        return ["--quiet", *(w for one in f"{SMALL} {STEPS} {settings}".split() for w in ("--set", one))]

    methods = [method.algorithm for method in METHODS]
    return {m: ["train", "foe-denoise", *train(f"{FIELD} upper.algorithm={m}"), "--out", "run"] for m in methods} | {
        "evaluate": ["evaluate", MODEL, "--quiet", "--images", "builtin:test", "--csv", "rows.csv"],
        "reconstruct": ["reconstruct", MODEL, "builtin:test", "--degrade", "--out", "images"],
        "compare": ["compare", "tv-denoise", "--seeds", "0", "1", *train(), "--out", "runs"],
    }


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command in a folder, on one thread; a run that has begun goes on."""
    if (folder / "run" / "config.toml").exists():
        words = ["resume", "run", "--quiet"]
    command, own = [sys.executable, "-m", "app", *words], {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=os.environ | own, text=True, **quiet)  # type: ignore[call-overload]


def result(folder: Path) -> Result:
    """Return all files below a folder, without seconds, dates, what was typed and what is drawn from these."""
    return {str(p.relative_to(folder)): _contents(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _contents(file: Path) -> object:
    if file.suffix == ".csv":
        rows = [line.split(",") for line in file.read_text().splitlines()]
        timed = [i for i, head in enumerate(rows[0]) if "seconds" in head]
        return [[cell for i, cell in enumerate(row) if i not in timed] for row in rows]
    if file.suffix == ".safetensors":
        metadata, tensors = read(file)
        facts = {k: v for k, v in json.loads(metadata.get("facts", "{}")).items() if k not in NO_MATTER}
        bits = {k: t.numpy().tobytes() for k, t in tensors.items() if k != "books.rows"}
        return facts, metadata.get("config"), bits
    return b"" if file.stem in ("log", "final", "curves", "comparison", "table") else file.read_bytes()


def killed(words: list[str], folder: Path, number: signal.Signals, wait: float, whole: Result) -> str:
    """Run a command, kill it after `wait` seconds and repeat it to its end. Return what was wrong, or ""."""
    process = start(words, folder)
    time.sleep(wait)
    process.send_signal(number)
    _, errors = process.communicate()
    if process.returncode not in (0, -number, 128 + number) or "Traceback" in errors:
        return f"exit code {process.returncode}: {errors[-300:]}"
    if words[0] == "reconstruct":
        if not {k: v for k, v in result(folder).items() if not k.endswith(".tmp")}.items() <= whole.items():
            return "left half a file"
        for file in (folder / "images").glob("[!.]*"):
            file.unlink()  # it never overwrites
    process = start(words, folder)
    _, errors = process.communicate()
    found = result(folder)
    wrong = [name for name in sorted(found.keys() | whole.keys()) if found.get(name) != whole.get(name)]
    return (
        f"exit code {process.returncode}, other files: {', '.join(wrong)} {errors[-300:]}"
        if wrong or process.returncode
        else ""
    )


def storm(kills: int, seed: int, names: list[str]) -> int:
    """Run and kill so often, print what came of each kill, and return how often that was wrong."""
    chance, failures = random.Random(seed), 0
    known: dict[str, tuple[float, Result]] = {}  # how long the uninterrupted command took, and what it left
    for n in range(kills):
        name = names[n % len(names)]
        words, number = commands()[name], chance.choice(SIGNALS)
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            if name not in known:
                began = time.monotonic()
                assert start(words, Path(first)).wait() == 0, name
                known[name] = time.monotonic() - began, result(Path(first))
            seconds, whole = known[name]
            wrong = killed(words, Path(second), number, chance.uniform(0.2, 1) * seconds, whole)
        failures += bool(wrong)
        print(f"{n + 1:4} {name:12} {number.name:8} {wrong or 'same'}", flush=True)
    print(f"{kills} kills, {failures} failures (seed {seed})")
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/storm", description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=40, help="default: %(default)s")
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(commands())} (default: all)")
    o = parser.parse_args()
    if unknown := [name for name in o.commands if name not in commands()]:
        parser.error(f"there is no command {unknown[0]!r}: {', '.join(commands())}")
    raise SystemExit(storm(o.kills, o.seed, o.commands or list(commands())) > 0)
