"""What finished runs ended with, as tables."""

import csv
import io
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from app import assemble
from app.files import write_own
from app.settings.comparison import Comparison
from app.settings.toml import load
from app.training import records
from app.training.checkpoint import RunError
from app.training.setup import training_psnr


@dataclass(frozen=True)
class Outcome:
    """One finished run."""

    validation_psnr: float  # dB, held-out images at the end
    training_psnr: float  # dB, all training patches at the end
    kernel_error: float | None  # ||k - k_true|| / ||k_true|| of a learned kernel
    computations: float
    seconds: float
    steps: float
    certified: float  # share of the images of all steps that reached their accuracy, as estimated


HEADS = {
    "validation_psnr": ("held-out PSNR (dB)", 2),
    "training_psnr": ("training PSNR (dB)", 2),
    "kernel_error": ("kernel error", 3),
    "computations": ("computations", 0),
    "seconds": ("seconds", 0),
    "steps": ("steps", 0),
    "certified": ("accurate", 2),
}  # title and digits

Outcomes = dict[str, list[Outcome]]  # by method, one for each seed


def tables(groups: dict[str, list[Path]], data_root: Path, comparison: Comparison | None = None) -> tuple[str, str]:
    """Return what the finished runs of every label ended with, as Markdown (with the claims of a comparison) and CSV.
    Raises RunError where there is none."""
    if not any(groups.values()):
        raise RunError("no run came to its end: nothing to compare")
    outcomes = {label: [outcome(run, data_root) for run in runs] for label, runs in groups.items()}
    about, claims = (comparison.about, comparison.claims) if comparison else ("", ())
    head = f"{about[0].upper()}{about[1:]}:\n\n" if about else ""
    return head + markdown(outcomes) + verdicts(claims, outcomes), csv_table(outcomes)


def outcome(run: Path, data_root: Path) -> Outcome:
    """Return what a run ended with. The PSNR of the training patches is computed once and kept in the run's folder.
    Raises RunError."""
    if not (run / "metrics.csv").is_file() or not (run / "config.toml").is_file():
        raise RunError(f"{run} is not a run folder")
    columns, file = records.read(run / "metrics.csv"), run / "final.json"
    if not columns["step"]:
        raise RunError(f"{run} has not made a step yet")
    step, known, now = columns["step"][-1], {}, {name: columns[name][-1] for name in ("step", "seconds")}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text())
    if not now.items() <= known.items():
        known = {**now, "training_psnr": training_psnr(load(run / "config.toml"), run, data_root)}
        write_own(file, json.dumps(known).encode())
    held_out = [v for v in columns["validation_psnr"] if v == v]
    model, config = assemble.load(str(run), [])
    return Outcome(
        held_out[-1] if held_out else float("nan"), known["training_psnr"],
        assemble.learned_kernel_error(config, model, data_root), columns["computations"][-1],
        columns["seconds"][-1], step, fmean(columns["certified"]),
    )  # fmt: skip


def markdown(outcomes: Outcomes) -> str:
    """Write a table of means, and of standard deviations over the seeds where there are several."""
    names = _present(outcomes)
    lines = ["| method | " + " | ".join(HEADS[n][0] for n in names) + " |", "|---|" + "---|" * len(names)]
    for label, runs in outcomes.items():
        cells = [_cell([getattr(run, name) for run in runs], HEADS[name][1]) for name in names]
        if not runs:
            cells[0] = "diverged"
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def verdicts(claims: tuple[tuple[str, str], ...], outcomes: Outcomes) -> str:
    """Say in Markdown whether the first of each pair reaches at least the second here, in held-out PSNR."""
    lines = []
    for first, second in claims:
        a, b = (fmean([run.validation_psnr for run in outcomes[label]] or [float("-inf")]) for label in (first, second))
        verdict = "holds here" if round(a, 2) >= round(b, 2) else "does not hold here"
        lines.append(f"- {first} reaches at least {second}: {verdict}, {a:.2f} against {b:.2f} dB.\n")
    return "".join(["\n", *lines]) if lines else ""


def csv_table(outcomes: Outcomes) -> str:
    """Write one row per run."""
    names, text = _present(outcomes), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *names])
    writer.writerows([label, *(getattr(run, n) for n in names)] for label, runs in outcomes.items() for run in runs)
    return text.getvalue()


def _present(outcomes: Outcomes) -> list[str]:
    """Columns that any run has."""
    rows = [asdict(run) for runs in outcomes.values() for run in runs]
    return [name for name in HEADS if any(row[name] is not None for row in rows)]


def _cell(values: list[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    spread = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{fmean(known):.{digits}f}{spread}"
