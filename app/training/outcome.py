"""What finished runs ended with, as tables."""

import csv
import io
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from app import assemble
from app.files import write_own
from app.settings.toml import load
from app.training import records
from app.training.checkpoint import RunError
from app.training.setup import training_psnr
from app.training.validation import validate_images
from datasets.held_out import images_to_learn_from
from figures.reach import crossing
from figures.table import pipes

Course = tuple[tuple[float, float], ...]  # (computations, held-out PSNR in dB) of every validation


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One finished run."""

    validation_psnr: float  # dB, held-out images at the end
    training_psnr: float  # dB, all training patches at the end
    kernel_error: float | None  # ||k - k_true|| / ||k_true|| of a learned kernel
    computations: float
    seconds: float
    steps: float
    certified: float  # share of the images of all steps that reached their accuracy, as estimated
    reached: float | None = None  # computations to the held-out PSNR that is asked for; None: it did not get there
    seed: int = 0
    held_out: dict[str, float] = field(default_factory=dict)  # PSNR in dB of each held-out image, by the run's model
    course: Course = ()


HEADS = {
    "validation_psnr": ("held-out PSNR (dB)", 2),
    "training_psnr": ("training PSNR (dB)", 2),
    "kernel_error": ("kernel error", 3),
    "reached": ("computations to {:g} dB", 0),
    "computations": ("computations", 0),
    "seconds": ("seconds", 0),
    "steps": ("steps", 0),
    "certified": ("accurate", 2),
}  # title and digits

Outcomes = dict[str, list[Outcome]]  # by method, one for each seed


def outcomes_of(groups: dict[str, list[Path]], data_root: Path, reach: float | None = None) -> Outcomes:
    """Return what the finished runs of every label ended with. Raises RunError where there is none."""
    if not any(groups.values()):
        raise RunError("no run came to its end: nothing to compare")
    return {label: [outcome(run, data_root, reach) for run in runs] for label, runs in groups.items()}


def outcome(run: Path, data_root: Path, reach: float | None = None) -> Outcome:
    """Return what a run ended with. The PSNR of the training patches and of each held-out image is computed once and
    kept in the run's folder. reach: a held-out PSNR in dB. Raises RunError."""
    if not (run / "metrics.csv").is_file() or not (run / "config.toml").is_file():
        raise RunError(f"{run} is not a run folder")
    columns, file = records.read(run / "metrics.csv"), run / "final.json"
    if not columns["step"]:
        raise RunError(f"{run} has not made a step yet")
    step, known, now = columns["step"][-1], {}, {name: columns[name][-1] for name in ("step", "seconds")}
    model, config = assemble.load(str(run), [])
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text())
    if not now.items() <= known.items() or "held_out" not in known:
        held_out = images_to_learn_from("data.validation", config.data.validation, data_root, config.data.color)
        known = {
            **now, "training_psnr": training_psnr(load(run / "config.toml"), run, data_root),
            "held_out": validate_images(config, model, held_out, data_root),
        }  # fmt: skip
        write_own(file, json.dumps(known).encode())
    course = tuple((c, v) for c, v in zip(columns["computations"], columns["validation_psnr"], strict=True) if v == v)
    return Outcome(
        validation_psnr=course[-1][1] if course else float("nan"), training_psnr=known["training_psnr"],
        kernel_error=assemble.learned_kernel_error(config, model, data_root),
        computations=columns["computations"][-1], seconds=columns["seconds"][-1], steps=step,
        certified=fmean(columns["certified"]), reached=None if reach is None else computations_to(reach, course),
        seed=config.run.seed, held_out=known["held_out"], course=course,
    )  # fmt: skip


def computations_to(psnr: float, course: Course) -> float | None:
    """Return after how many computations a held-out PSNR in dB was reached first, None where it was not."""
    return crossing([c for c, _ in course], [value for _, value in course], psnr)


def markdown(outcomes: Outcomes, reach: float | None = None) -> str:
    """Write a table of means, and of standard deviations over the seeds where there are several."""
    names, body = _present(outcomes, reach), []
    for label, runs in outcomes.items():
        cells = [_cell([getattr(run, name) for run in runs], HEADS[name][1]) for name in names]
        if not runs:
            cells[0] = "diverged"
        elif "reached" in names and all(run.reached is None for run in runs):
            cells[names.index("reached")] = "not reached"
        body.append([label, *cells])
    return pipes(["method", *(HEADS[name][0].format(reach) for name in names)], body)


def csv_table(outcomes: Outcomes, reach: float | None = None) -> str:
    """Write one row per run."""
    names, text = _present(outcomes, reach), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *names])
    writer.writerows([label, *(getattr(run, n) for n in names)] for label, runs in outcomes.items() for run in runs)
    return text.getvalue()


def held_out_csv(outcomes: Outcomes) -> str:
    """Write the PSNR in dB of every held-out image, one row per run and image: what paired tests compare."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", "image", "psnr"])
    for label, runs in outcomes.items():
        writer.writerows([label, run.seed, image, psnr] for run in runs for image, psnr in run.held_out.items())
    return text.getvalue()


def _present(outcomes: Outcomes, reach: float | None) -> list[str]:
    """Columns that any run has, and the one that is asked for."""
    rows = [run for runs in outcomes.values() for run in runs]
    asked = {"reached"} if reach is not None else set()
    return [name for name in HEADS if name in asked or any(getattr(row, name) is not None for row in rows)]


def _cell(values: list[float | None], digits: int) -> str:
    """The mean of the seeds that have a value, their spread, and how many of the seeds they are."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    spread = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{fmean(known):.{digits}f}{spread}" + (
        f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    )
