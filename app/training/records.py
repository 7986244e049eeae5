"""metrics.csv: one row per step."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from app.files import append_to_own, write_own
from app.training.checkpoint import RunError


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
    lower_iterations: float  # mean gradients of h, and preconditioners, per image
    linear_iterations: float  # mean products with H, and preconditioners, per image
    computations: int  # gradients of h, products with H and preconditioners so far, summed over images
    seconds: float  # training so far, without validation
    validation_psnr: float | None  # dB, after the step


NAMES = tuple(f.name for f in fields(Record))
HEADER = ",".join(NAMES) + "\n"


def to_row(record: Record) -> str:
    """Format a record as a line of the file."""
    return ",".join("" if v is None else repr(v) for v in asdict(record).values()) + "\n"


def write(folder: Path, rows: list[str]) -> None:
    """Write the file of a run, unless it has these rows already."""
    write_own(_file(folder), "".join([HEADER, *rows]).encode())


def append(folder: Path, row: str) -> None:
    """Add a row. Raises FileNotFoundError where somebody removed the file."""
    with append_to_own(_file(folder)) as file:
        file.write(row)


def first_rows(folder: Path, steps: int) -> list[str]:
    """Return the rows of the first steps. Raises RunError where one of them is missing or is not whole."""
    if steps == 0:
        return []
    columns = read(_file(folder))
    if columns["step"][:steps] != list(range(1, steps + 1)):
        raise RunError(f"{_file(folder)} does not hold the steps 1 to {steps}, which the checkpoint counts on")
    return _file(folder).read_text().splitlines(keepends=True)[1 : steps + 1]


def read(path: Path) -> dict[str, list[float]]:
    """Return the columns of a metrics.csv; empty cells are NaN, and a row that is being written is left out. Raises
    RunError where the file is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        head, *rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]), strict=True)
        columns = dict(zip(head, zip(*rows, strict=True) if rows else [()] * len(head), strict=True))
        return {name: [float(cell or "nan") for cell in columns[name]] for name in NAMES}
    except (ValueError, KeyError, csv.Error) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def _file(folder: Path) -> Path:
    return folder / "metrics.csv"
