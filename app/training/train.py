"""The training loop: sample, step, record, save."""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from app.config import Config, to_toml
from app.files import write_atomically
from app.losses import psnr
from app.models import save_model
from app.training import checkpoint, history, records
from app.training.checkpoint import RunError
from app.training.problem import TrainingProblem
from app.training.records import Record
from app.upper.hypergradient import Hypergradient
from app.upper.isgd import Isgd, NonFiniteError

log = logging.getLogger("app")


@dataclass(frozen=True)
class Training:
    """Everything a run needs; `folder` holds what it leaves behind."""

    folder: Path
    config: Config
    problem: TrainingProblem
    method: Isgd
    optimizer: torch.optim.Optimizer
    validate: Callable[[], float]  # mean held-out PSNR in dB

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint" / "state.safetensors"


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
    """Load the checkpoint of the run folder: parameters, optimizer, warm starts. Raises RunError."""
    tensors, facts = checkpoint.load(training.checkpoint_path)
    try:
        _set_state(training, tensors)
        return Progress(**facts)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{training.checkpoint_path} does not fit {training.folder}/config.toml: {reason}") from None


def save(training: Training, progress: Progress) -> None:
    facts = asdict(progress)
    checkpoint.save(training.checkpoint_path, _state(training), facts)
    save_model(training.folder / "model.safetensors", training.problem.regularizer, training.config, facts)


def _state(training: Training) -> dict[str, Tensor]:
    """Everything a step changes, as copies."""
    parameters = {f"parameter.{n}": p.detach() for n, p in training.problem.regularizer.named_parameters()}
    state = parameters | checkpoint.optimizer_tensors(training.optimizer)
    # Warm starts are replaced, never changed in place: no copy needed.
    return {name: t.clone() for name, t in state.items()} | training.problem.warm.tensors()


def _set_state(training: Training, tensors: dict[str, Tensor]) -> None:
    prefix = "parameter."
    parameters = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    training.problem.regularizer.load_state_dict(parameters)
    checkpoint.restore_optimizer(training.optimizer, tensors)
    training.problem.warm.restore(tensors)


def train(training: Training, progress: Progress, quiet: bool) -> Progress:
    """Run to `run.steps`; returns the final progress. Raises Interrupted or NonFiniteError with the state saved."""
    config, problem = training.config, training.problem
    metrics = training.folder / "metrics.csv"
    good: tuple[dict[str, Tensor], Progress] | None = None  # the last state whose loss was finite
    records.begin(metrics, progress.step)
    history.begin(training.folder, progress.step, problem.regularizer)
    bar = tqdm(total=config.run.steps, initial=progress.step, disable=quiet, unit="step", dynamic_ncols=True)
    with bar, _stop_requests() as stop_requested, metrics.open("a", encoding="utf-8") as rows:
        for k in range(progress.step, config.run.steps):
            start, before = time.perf_counter(), (_state(training), progress)
            batch, patches = problem.batch(k)
            try:
                z = training.method.step(k, problem.regularizer, training.optimizer, batch)
            except NonFiniteError:
                if good is not None:
                    _go_back(training, *good)
                raise
            good = before
            problem.remember(patches.images, z)
            progress = Progress(
                k + 1,
                progress.computations + int(z.computations.sum()),
                progress.seconds + time.perf_counter() - start,
            )
            last = progress.step == config.run.steps
            every = config.run.validate_every
            held_out = training.validate() if last or (every and progress.step % every == 0) else None
            record = _record(training.method, k, z, psnr(z.lower.x, patches.clean.to(z.lower.x)), progress, held_out)
            rows.write(records.to_row(record))
            rows.flush()
            history.note(training.folder, progress.step, problem.regularizer, last)
            _show(bar, record)
            if last or progress.step % config.run.checkpoint_every == 0 or stop_requested():
                save(training, progress)
            if stop_requested() and not last:
                raise Interrupted
    return progress


def _go_back(training: Training, state: dict[str, Tensor], progress: Progress) -> None:
    """Save an earlier state as if the run had ended there."""
    _set_state(training, state)
    save(training, progress)
    records.begin(training.folder / "metrics.csv", progress.step)
    history.begin(training.folder, progress.step, training.problem.regularizer)


def _record(
    method: Isgd, k: int, z: Hypergradient, psnrs: Tensor, progress: Progress, held_out: float | None
) -> Record:
    return Record(
        step=progress.step,
        loss=float(z.loss.mean()),
        psnr=float(psnrs.mean()),
        accuracy=method.accuracy(k),
        step_size=method.step_size(k),
        error_bound=float(z.lower.error_bound.max()),
        certified=float((z.lower.converged & z.linear.converged).double().mean()),
        lower_iterations=float(z.lower.iterations.double().mean()),
        linear_iterations=float(z.linear.iterations.double().mean()),
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
