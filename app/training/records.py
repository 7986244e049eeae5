"""metrics.csv: one row per step."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from app.files import write_atomically


@dataclass(frozen=True)
class Record:
    """What one step did, and what was validated after it."""

    step: int
    loss: float  # mean over the batch before the step; 1/2 ||x - clean||^2 for one noise level
    psnr: float  # mean over the batch against the targets, dB; noisy targets make it low
    accuracy: float  # eps_k
    step_size: float  # alpha_k
    error_bound: float  # largest estimated ||x - argmin h|| of the batch
    certified: float  # share of images that reached eps_k in both solves, by this estimate
    lower_iterations: float  # mean gradients of h per image
    linear_iterations: float  # mean products with H per image
    computations: int  # gradients of h plus products with H so far, summed over images
    seconds: float  # training so far, without validation
    validation_psnr: float | None  # dB, after the step


NAMES = tuple(f.name for f in fields(Record))


def to_row(record: Record) -> str:
    """Format a record as a line of the file."""
    return ",".join("" if v is None else repr(v) for v in asdict(record).values()) + "\n"


def begin(path: Path, steps: int) -> None:
    """Write a header and the rows of the first `steps` steps, if there are any: a resumed run goes on from there."""
    kept = path.read_text().splitlines(keepends=True)[1 : steps + 1] if path.exists() else []
    write_atomically(path, (",".join(NAMES) + "\n" + "".join(kept)).encode())


def read(path: Path) -> dict[str, list[float]]:
    """Return the columns of a metrics.csv; empty cells are NaN."""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return {name: [float(row[name] or "nan") for row in rows] for name in NAMES}
