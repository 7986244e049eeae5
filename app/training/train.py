"""The training loop: sample, step, record, save."""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from app.files import write_atomically
from app.lower.solution import NOT_CERTIFIED, NonFiniteError
from app.models.model import save_model
from app.models.provenance import today, versions
from app.problem.losses import psnr
from app.settings.options import Config
from app.settings.toml import to_toml
from app.training import checkpoint, history, records
from app.training.checkpoint import RunError
from app.training.problem import TrainingProblem
from app.training.records import Record
from app.training.selection import Selection, standing_in
from app.upper import state as method_state
from app.upper.method import Method, Step

log = logging.getLogger("app")

VALIDATIONS = 20  # of a run with a budget


@dataclass(frozen=True)
class Training:
    """Everything a run needs; `folder` holds what it leaves behind."""

    folder: Path
    config: Config
    problem: TrainingProblem
    method: Method[Any]
    state: Any  # of the method
    selection: Selection
    validate: Callable[[], float]  # mean held-out PSNR in dB
    provenance: dict[str, Any] = field(default_factory=dict)  # what else the model file says about the run

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint" / "state.safetensors"

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.problem.model.parameters())


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0
    computations: int = 0
    seconds: float = 0.0


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; the state is saved."""


def begin(training: Training) -> Progress:
    """Claim the run folder, with a checkpoint of step 0. Raises RunError if it holds a run already."""
    folder = training.folder
    if (folder / "config.toml").exists():
        raise RunError(f"{folder} already holds a run: continue it with `resume {folder}`, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    # The configuration last: a folder that has one can always be resumed.
    save(training, Progress())
    write_config(training)
    return Progress()


def write_config(training: Training) -> None:
    """The complete configuration; a resumed run may have changed settings."""
    write_atomically(training.folder / "config.toml", to_toml(training.config).encode())


def restore(training: Training) -> Progress:
    """Load the checkpoint of the run folder: parameters and the method's state. Raises RunError."""
    tensors, facts = checkpoint.load(training.checkpoint_path)
    try:
        training.problem.model.load(_with_prefix(tensors, "parameter."))
        method_state.restore(training.state, _with_prefix(tensors, "state."), training.problem.device)
        training.selection.restore(_with_prefix(tensors, "selection."), training.problem.device)
        return Progress(**facts)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{training.checkpoint_path} does not fit {training.folder}/config.toml: {reason}") from None


def save(training: Training, progress: Progress) -> None:
    facts = asdict(progress)
    parameters = {f"parameter.{n}": t for n, t in training.problem.model.tensors().items()}
    state = {f"state.{n}": t for n, t in method_state.tensors(training.state).items()}
    selection = {f"selection.{n}": t for n, t in training.selection.tensors().items()}
    checkpoint.save(training.checkpoint_path, parameters | state | selection, facts)
    facts |= {"date": today(), "versions": versions(), **training.provenance}
    if training.config.lower.uncertified and not _certifiable(training):
        facts["certified"] = NOT_CERTIFIED
    with standing_in(training.parameters, training.selection.chosen(training.parameters)):
        save_model(training.folder / "model.safetensors", training.problem.model, training.config, facts)


def _certifiable(training: Training) -> bool:
    try:
        return training.problem.batch(0)[0].energy().bounds[0] > 0
    except NonFiniteError:
        return False


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class _Snapshot:
    """Everything a step changes."""

    parameters: list[Tensor]
    state: dict[str, Tensor]
    selection: Selection
    progress: Progress

    @staticmethod
    def of(training: Training, progress: Progress) -> "_Snapshot":
        parameters = [p.detach().clone() for p in training.parameters]
        return _Snapshot(parameters, method_state.tensors(training.state), training.selection.copy(), progress)

    @torch.no_grad()
    def go_back(self, training: Training) -> None:
        """Save the run as if it had ended here."""
        for p, before in zip(training.parameters, self.parameters, strict=True):
            p.copy_(before)
        method_state.restore(training.state, self.state, training.problem.device)
        selection = training.selection
        selection.mean, selection.best, selection.numbers = (
            self.selection.mean, self.selection.best, self.selection.numbers,
        )  # fmt: skip
        save(training, self.progress)
        records.begin(training.folder / "metrics.csv", self.progress.step)
        history.begin(training.folder, self.progress.step, training.problem.model.regularizer)


def train(training: Training, progress: Progress, quiet: bool) -> Progress:
    """Run to `run.steps` or `run.budget`; returns the final progress. Raises Interrupted or NonFiniteError with the
    state saved."""
    config, problem = training.config, training.problem
    metrics = training.folder / "metrics.csv"
    good: _Snapshot | None = None  # the last state whose loss was finite
    records.begin(metrics, progress.step)
    history.begin(training.folder, progress.step, problem.model.regularizer)
    bar = tqdm(total=config.run.steps, initial=progress.step, disable=quiet, unit="step", dynamic_ncols=True)
    with bar, _stop_requests() as stop_requested, metrics.open("a", encoding="utf-8") as rows:
        while not (finished(config, progress) or tired(training)):
            start, before = time.perf_counter(), _Snapshot.of(training, progress)
            batch, patches = problem.batch(progress.step)
            try:
                step = training.method.step(progress.step, batch, training.state)
            except NonFiniteError:
                if good is not None:
                    good.go_back(training)
                raise
            good = before
            progress = Progress(
                progress.step + 1,
                progress.computations + batch.computations + step.computations,
                progress.seconds + time.perf_counter() - start,
            )
            training.selection.note(progress.step, training.parameters)
            due = finished(config, progress) or _validation_due(config, before.progress, progress)
            held_out = _validated(training, before) if due else None
            last = finished(config, progress) or tired(training)
            record = _record(step, psnr(step.x, patches.clean.to(step.x)), progress, held_out)
            rows.write(records.to_row(record))
            rows.flush()
            history.note(training.folder, progress.step, problem.model.regularizer, last)
            _show(bar, record)
            if last or progress.step % config.run.checkpoint_every == 0 or stop_requested():
                save(training, progress)
            if stop_requested() and not last:
                raise Interrupted
    return progress


def _validated(training: Training, before: _Snapshot) -> float:
    """Held-out PSNR, for the selection to judge. If theta has just left the range of numbers, the run ends before this
    step."""
    parameters, selection = training.parameters, training.selection
    try:
        with standing_in(parameters, selection.candidate(parameters)):
            held_out = training.validate()
    except NonFiniteError:
        before.go_back(training)
        raise
    selection.judge(held_out, parameters)
    return held_out


def finished(config: Config, progress: Progress) -> bool:
    run = config.run
    return progress.step >= run.steps or (run.budget > 0 and progress.computations >= run.budget)


def tired(training: Training) -> bool:
    """Whether the last `run.patience` validations brought nothing better."""
    patience = training.config.run.patience
    return 0 < patience <= training.selection.waited


def _validation_due(config: Config, before: Progress, after: Progress) -> bool:
    """Every `validate_every` steps, or with a budget at every VALIDATIONS-th part of it; 0: never."""
    run = config.run
    if run.budget > 0 and run.validate_every > 0:
        share = run.budget / VALIDATIONS
        return after.computations // share > before.computations // share
    return run.validate_every > 0 and after.step % run.validate_every == 0


def _record(step: Step, psnrs: Tensor, progress: Progress, held_out: float | None) -> Record:
    return Record(
        step=progress.step,
        loss=float(step.loss.mean()),
        psnr=float(psnrs.mean()),
        accuracy=step.accuracy,
        step_size=step.step_size,
        error_bound=float(step.error_bound.max()),
        certified=float(step.certified.double().mean()),
        lower_iterations=float(step.lower_iterations.double().mean()),
        linear_iterations=float(step.linear_iterations.double().mean()),
        computations=progress.computations,
        seconds=progress.seconds,
        validation_psnr=held_out,
    )


def _show(bar: tqdm, record: Record) -> None:
    bar.update()
    bar.set_postfix_str(
        f"loss {record.loss:.3f}, PSNR {record.psnr:.2f} dB, eps {record.accuracy:.2g}, "
        f"{record.lower_iterations:.0f}+{record.linear_iterations:.0f} per image",
        refresh=False,
    )
    if record.validation_psnr is not None and math.isfinite(record.validation_psnr):
        log.info("step %d: validation PSNR %.3f dB", record.step, record.validation_psnr)


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM are noted and answered between two steps; a second SIGINT interrupts at once."""
    requested = []

    def note(number: int, frame: object) -> None:
        if requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(requested)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
