"""`compare`: train several experiments on the same problem, or take finished runs; one table, one figure."""

import csv
import io
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from app.commands import train
from app.comparison import Comparison
from app.config import load
from app.files import write_atomically
from app.options import Config
from app.training import records
from app.training.checkpoint import RunError
from app.upper.method import NonFiniteError
from figures import curves
from figures.style import save

log = logging.getLogger("app")


@dataclass(frozen=True)
class Outcome:
    """One finished run."""

    validation_psnr: float  # dB, held-out images at the end
    training_psnr: float  # dB, all training patches at the end
    computations: float
    seconds: float
    steps: float
    certified: float  # share of the images of all steps that reached their accuracy


def compare(comparison: Comparison, out: Path, data_root: Path, quiet: bool) -> int:
    """Train what is not there yet (an interrupted comparison goes on where it stopped), then draw."""
    groups: dict[str, list[Path]] = {}
    for label, runs in comparison.runs().items():
        for name, config in runs:
            log.info("%s: %s", label, out / name)
            status = _finish(config, out / name, data_root, quiet)
            if status == 130:
                return status
            if status == 0:
                groups.setdefault(label, []).append(out / name)
    return summarize(groups, out, data_root)


def compare_runs(runs: list[Path], out: Path, data_root: Path) -> int:
    """Runs that differ in their seed alone are one method."""
    groups: dict[str, list[Path]] = {}
    labels: list[tuple[Config, str]] = []
    for run in runs:
        config = load(run / "config.toml")
        key = replace(config, run=replace(config.run, seed=0))
        label = next((name for known, name in labels if known == key), None)
        if label is None:
            label = run.resolve().name if run.resolve().name not in groups else str(run)
            labels.append((key, label))
        groups.setdefault(label, []).append(run)
    return summarize(groups, out, data_root)


def summarize(groups: dict[str, list[Path]], out: Path, data_root: Path) -> int:
    if not groups:
        raise RunError("no run came to its end: nothing to compare")
    columns = {label: [records.read(run / "metrics.csv") for run in runs] for label, runs in groups.items()}
    outcomes = {label: [outcome(run, data_root) for run in runs] for label, runs in groups.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "table.md", markdown(outcomes).encode())
    write_atomically(out / "table.csv", csv_table(outcomes).encode())
    for suffix in ("png", "pdf"):
        save(curves.compare(columns), out / f"comparison.{suffix}")
    print(markdown(outcomes))
    for name in ("table.md", "table.csv", "comparison.png", "comparison.pdf"):
        print(out / name)
    return 0


def _finish(config: Config, folder: Path, data_root: Path, quiet: bool) -> int:
    """Train to the end from wherever the run is. 0: done, 1: it diverged, 130: interrupted."""
    try:
        if not (folder / "config.toml").is_file():
            return train.train(config, folder, data_root, quiet, draw=False)
        if load(folder / "config.toml") != config:
            raise RunError(f"{folder} holds a run with other settings: remove it, or choose another --out")
        return train.resume(config, folder, data_root, quiet, draw=False)
    except NonFiniteError as error:
        log.info("%s diverged: %s", folder, error)
        return 1


def outcome(run: Path, data_root: Path) -> Outcome:
    """What a run ended with. The PSNR of its training patches is computed once and kept in the folder."""
    if not (run / "metrics.csv").is_file() or not (run / "config.toml").is_file():
        raise RunError(f"{run} is not a run folder")
    columns, file = records.read(run / "metrics.csv"), run / "final.json"
    if not columns["step"]:
        raise RunError(f"{run} has not made a step yet")
    step = columns["step"][-1]
    known = json.loads(file.read_text()) if file.is_file() else {}
    if known.get("step") != step:
        known = {"step": step, "training_psnr": train.training_psnr(load(run / "config.toml"), run, data_root)}
        write_atomically(file, json.dumps(known).encode())
    held_out = [v for v in columns["validation_psnr"] if v == v]
    return Outcome(
        held_out[-1] if held_out else float("nan"), known["training_psnr"], columns["computations"][-1],
        columns["seconds"][-1], step, fmean(columns["certified"]),
    )  # fmt: skip


HEADS = {
    "validation_psnr": "held-out PSNR (dB)", "training_psnr": "training PSNR (dB)", "computations": "computations",
    "seconds": "seconds", "steps": "steps", "certified": "certified",
}  # fmt: skip
DIGITS = {"validation_psnr": 2, "training_psnr": 2, "computations": 0, "seconds": 0, "steps": 0, "certified": 2}


def markdown(outcomes: dict[str, list[Outcome]]) -> str:
    """Means, and standard deviations over the seeds where there are several."""
    lines = ["| method | " + " | ".join(HEADS.values()) + " |", "|---|" + "---|" * len(HEADS)]
    for label, runs in outcomes.items():
        cells = [_cell([getattr(run, name) for run in runs], DIGITS[name]) for name in HEADS]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def csv_table(outcomes: dict[str, list[Outcome]]) -> str:
    """One row per run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *HEADS])
    writer.writerows([label, *(getattr(run, n) for n in HEADS)] for label, runs in outcomes.items() for run in runs)
    return text.getvalue()
