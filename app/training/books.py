"""What a run writes down beside its state: the rows of metrics.csv, and the snapshots of history.safetensors."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from app.training import history, records
from app.training.history import History
from regularizers import Regularizer

log = logging.getLogger("app")


@dataclass
class Books:
    """Rows and snapshots up to the present step. A checkpoint holds them, and the files are written anew from it."""

    rows: list[str] = field(default_factory=list)  # one per step
    history: History = field(default_factory=dict)

    def enter(self, folder: Path, row: str) -> None:
        """Add the row of a step, to the file at once."""
        self.rows.append(row)
        try:
            records.append(folder, row)
        except FileNotFoundError:
            records.write(folder, self.rows)
            log.warning("%s was removed while the run wrote to it: it is written anew", folder / "metrics.csv")

    def note(self, step: int, regularizer: Regularizer, last: bool) -> None:
        """Add the parameters after `step` steps, if this is one of the steps to keep."""
        self.history = history.noted(self.history, step, regularizer, last)

    def go_back(self, step: int) -> None:
        """Forget what came after a step, and that it was the last one if it was."""
        del self.rows[step:]
        self.history = history.until(self.history, step)

    def write(self, folder: Path) -> None:
        """Write the files that do not say this already."""
        records.write(folder, self.rows)
        history.write(folder, self.history)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a checkpoint."""
        text = bytearray("".join(self.rows).encode())
        rows = torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        return {"rows": rows} | {f"history.{name}": values for name, values in self.history.items()}

    def restore(self, tensors: dict[str, Tensor], folder: Path, step: int) -> None:
        """Put back what `tensors` returned; what an earlier version did not put into its checkpoint is in the folder.
        Raises RunError where it is not."""
        if "rows" in tensors:
            self.rows = tensors["rows"].numpy().tobytes().decode().splitlines(keepends=True)
            self.history = {n.removeprefix("history."): t for n, t in tensors.items() if n.startswith("history.")}
        else:
            self.rows = records.first_rows(folder, step)
            self.history = history.until(history.read(folder), step) if history.exists(folder) else {}
