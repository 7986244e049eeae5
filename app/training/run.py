"""A run: the steps of fit.py, and the folder that keeps what they leave behind."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from app.files import write_own
from app.interrupt import ending_signals
from app.lower.energy import Solver
from app.lower.solution import NOT_CERTIFIED, NonFiniteError
from app.models.build import Model
from app.models.files import save_model
from app.models.provenance import today, versions
from app.models.sealed import read
from app.problem.problem import Problem
from app.problem.quality import psnr
from app.processes import ALONE, ProcessError, Processes
from app.settings.options import Config
from app.settings.toml import to_toml
from app.training import checkpoint, owner, records
from app.training.books import Books
from app.training.checkpoint import INPUTS, RunError
from app.training.fit import energy_bounds, fit
from app.training.inputs import Inputs, changes, recorded, write_lists
from app.training.records import Record
from app.training.selection import Selection, swapped_in
from app.upper import state as states
from app.upper.method import Method, Step
from app.upper.share import home
from datasets.files import printable
from datasets.images import SUFFIXES, ImageError

log = logging.getLogger("app")

VALIDATIONS = 20  # of a run with a budget
WRITTEN = ("metrics.csv", "model.safetensors", "history.safetensors", "log.txt", "reconstruction.pdf", "report.html")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a run needs; `folder` holds what it leaves behind."""

    folder: Path
    config: Config
    model: Model
    problem: Problem
    method: Method[Any]
    state: Any  # of the method
    selection: Selection
    solver: Solver  # of what guides reconstruct
    validate: Callable[[], float]  # mean held-out PSNR in dB
    inputs: Inputs  # what it is made of
    processes: Processes = ALONE  # of which the first one owns the folder
    books: Books = field(default_factory=Books)
    provenance: dict[str, Any] = field(default_factory=dict)  # what else the model file says about the run

    @cached_property
    def recorded(self) -> Inputs:
        """What a checkpoint says of the inputs."""
        return recorded(self.inputs)

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint" / "state.safetensors"

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    @property
    def model_path(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def bounds(self) -> tuple[float, float]:
        """(mu, L) of the lower level at the present parameters."""
        return energy_bounds(self.model, self.problem, self.method.images_per_step(len(self.problem)))

    @property
    def out_of_patience(self) -> bool:
        """Whether the last `run.patience` validations brought nothing better."""
        return 0 < self.config.run.patience <= self.selection.without_progress


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0
    computations: int = 0
    seconds: float = 0.0

    def ends(self, config: Config) -> bool:
        """Whether run.steps or run.budget is reached."""
        run = config.run
        return self.computations >= run.budget if run.last_step is None else self.step >= run.last_step


class Interrupted(KeyboardInterrupt):
    """A signal arrived, the argument is its number; the state is saved."""


def begin(run: Run) -> Progress:
    """Claim the run folder, which this process owns, with a checkpoint of step 0. Raises RunError if it holds a run
    already, or files of somebody else that a run would replace or mix with its own."""
    folder = run.folder
    if run.processes.first:
        if (folder / "config.toml").exists():
            raise RunError(f"{folder} already holds a run: continue it with `resume {folder}`, or choose another --out")
        if not (folder / "checkpoint").exists() and (others := sorted(filter(_is_taken, folder.iterdir()))):
            raise RunError(f"{folder} holds {printable(others[0].name)} of somebody else: choose another --out")
        (folder / "checkpoint").mkdir(exist_ok=True)
    run.books.note(0, run.model.regularizer, last=False)
    # The configuration last: a folder that has one can always be resumed.
    save(run, Progress())
    write_config(run)
    return Progress()


def _is_taken(file: Path) -> bool:
    """Whether a run would replace a file, or its own images would lie among those of the user."""
    return file.name in WRITTEN or file.suffix.lower() in SUFFIXES


def write_config(run: Run) -> None:
    """Write the complete configuration; a resumed run may have changed settings, and files that were accepted."""
    if run.processes.first:
        write_lists(run.checkpoint_path.parent, run.inputs)
        write_own(run.folder / "config.toml", to_toml(run.config).encode())


def restore(run: Run, accept_changes: bool = False, other_problem: bool = False) -> Progress:
    """Load the checkpoint of the run folder: parameters, the method's state and the books. Raises RunError, also where
    the run is made of other images or files now, unless that is accepted. other_problem: what was the best of held-out
    images is not compared with what comes."""
    tensors, facts = checkpoint.load(run.checkpoint_path)
    if changed := changes(facts.pop(INPUTS, {}), run.inputs, run.checkpoint_path.parent):
        if not accept_changes:
            raise RunError(f"{run.folder}: since the run began, {changed}; --accept-changes resumes it all the same")
        log.warning("%s: since the run began, %s", run.folder, changed)
    try:
        run.model.load(_with_prefix(tensors, "parameter."))
        states.restore(run.state, _with_prefix(tensors, "state."), run.problem.device)
        states.keep(run.state, lambda image: home(image, len(run.problem), run.processes) == run.processes.rank)
        run.selection.restore(_with_prefix(tensors, "selection."), run.problem.device)
        if changed or other_problem:
            run.selection.begin_anew()
        progress = Progress(**facts)
        run.books.restore(_with_prefix(tensors, "books."), run.folder, progress.step)
        return progress
    except RunError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{run.checkpoint_path} does not fit {run.folder}/config.toml: {reason}") from None


def save(run: Run, progress: Progress) -> None:
    """Write the checkpoint, and then what follows from it. Raises RunError where the folder is another one now, and
    ProcessError where processes have come apart."""
    _check_same(run, progress)
    remembered = run.processes.handed_in(_of_images(run))
    if not run.processes.first:
        run.processes.numbers(0)  # nobody leaves before all is written
        return
    owner.check(run.folder)
    parameters = {f"parameter.{n}": t for n, t in run.model.tensors().items()}
    state = {f"state.{n}": t for n, t in states.tensors(run.state).items()}
    state |= {name: t for of_rank in remembered for name, t in of_rank.items()}
    selection = {f"selection.{n}": t for n, t in run.selection.tensors().items()}
    books = {f"books.{n}": t for n, t in run.books.tensors().items()}
    facts = asdict(progress) | {INPUTS: run.recorded}
    checkpoint.save(run.checkpoint_path, parameters | state | selection | books, facts)
    write_results(run, progress)
    run.processes.numbers(0)


def _check_same(run: Run, progress: Progress) -> None:
    """Raise ProcessError where another process has other parameters than the first."""
    bits = b"".join(p.detach().cpu().numpy().tobytes() for p in run.parameters)
    digests = run.processes.objects(hashlib.sha256(bits).hexdigest())
    if others := [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]:
        raise ProcessError(
            f"the parameters of rank {', '.join(others)} are not those of rank 0 after step {progress.step}: nothing "
            f"is saved; the checkpoint in {run.folder} is the last one on which they agreed"
        )


def _of_images(run: Run) -> dict[str, Tensor]:
    """What the state of this process remembers of its images; the first one has its own at hand."""
    if run.processes.first:
        return {}
    flat = states.tensors(run.state)
    return {f"state.{name}": t.cpu() for name, t in flat.items() if name.startswith("image.")}


def write_results(run: Run, progress: Progress) -> None:
    """Write metrics, history and the model that the run hands over, unless the folder has those of this progress."""
    if not run.processes.first:
        return
    run.books.write(run.folder)
    facts: dict[str, Any] = asdict(progress)
    with suppress(OSError, SafetensorError, ValueError, KeyError, AttributeError):  # lost, damaged, not ours
        metadata, _ = read(run.model_path)
        if facts.items() <= json.loads(metadata["facts"]).items():
            return
    facts |= {"date": today(), "versions": versions(), **run.provenance}
    if run.config.lower.uncertified and not _certifiable(run):
        facts["certified"] = NOT_CERTIFIED
    with swapped_in(run.parameters, run.selection.chosen(run.parameters)):
        save_model(run.model_path, run.model, run.config, facts)


def _certifiable(run: Run) -> bool:
    try:
        return run.bounds[0] > 0
    except NonFiniteError:
        return False


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class _Snapshot:
    """Everything a step changes."""

    parameters: list[Tensor]
    state: Any
    selection: Selection
    progress: Progress

    @staticmethod
    def of(run: Run, progress: Progress) -> _Snapshot:
        parameters = [p.detach().clone() for p in run.parameters]
        return _Snapshot(parameters, states.copy(run.state), replace(run.selection), progress)

    @torch.no_grad()
    def go_back(self, run: Run) -> None:
        """Save the run as if it had been interrupted here."""
        for p, before in zip(run.parameters, self.parameters, strict=True):
            p.copy_(before)
        for present, before in ((run.state, self.state), (run.selection, self.selection)):
            vars(present).update(vars(before))
        run.books.go_back(self.progress.step)
        save(run, self.progress)


def train(run: Run, progress: Progress, quiet: bool) -> Progress:
    """Run to `run.steps` or `run.budget` and return the final progress. Raises Interrupted, NonFiniteError or
    ImageError with the state saved."""
    config = run.config
    good: _Snapshot | None = None  # the last state whose loss was finite
    last = progress.ends(config) or run.out_of_patience
    run.books.go_back(progress.step)
    run.books.note(progress.step, run.model.regularizer, last)
    write_results(run, progress)
    steps = fit(
        run.model, run.problem, run.method, steps=config.run.last_step, first=progress.step, state=run.state,
        solver=run.solver, certified=not config.lower.uncertified, processes=run.processes,
    )  # fmt: skip
    silent = quiet or not run.processes.first
    bar = tqdm(total=config.run.last_step, initial=progress.step, disable=silent, unit="step", dynamic_ncols=True)
    with bar, closing(steps), _stop_requests() as requested:
        while not last:
            start, before = time.perf_counter(), _Snapshot.of(run, progress)
            try:
                step = next(steps)
            except ImageError:  # damaged, removed or changed since the run began: before anything moved
                if run.processes.count == 1:  # several are in the middle of the step, and their last checkpoint stays
                    save(run, progress)
                raise
            except NonFiniteError:
                if good is not None:
                    good.go_back(run)
                raise
            good, seconds = before, progress.seconds + time.perf_counter() - start
            progress = Progress(progress.step + 1, progress.computations + step.computations, seconds)
            record = _noted(run, before, progress, step)
            if run.processes.first:
                run.books.enter(run.folder, records.to_row(record))
                _show(bar, record)
            last = progress.ends(config) or run.out_of_patience
            run.books.note(progress.step, run.model.regularizer, last)
            asked = int(max(run.processes.numbers(requested[0] if requested else 0)))  # all stop at one step
            if last or progress.step % config.run.checkpoint_every == 0 or asked:
                save(run, progress)
            if asked and not last:
                raise Interrupted(asked)
    return progress


def _noted(run: Run, before: _Snapshot, progress: Progress, step: Step) -> Record:
    """What a step did, and what was validated after it where that is due. If theta has just left the range of numbers,
    or a held-out image is lost, the run ends before this step."""
    run.selection.note(progress.step, run.parameters)
    held_out = None
    if progress.ends(run.config) or _validation_due(run.config, before.progress, progress):
        try:
            with swapped_in(run.parameters, run.selection.candidate(run.parameters)):
                held_out = run.validate()
        except (NonFiniteError, ImageError):
            before.go_back(run)
            raise
        run.selection.judge(held_out, run.parameters)
    return _record(run, step, progress, held_out)


def _validation_due(config: Config, before: Progress, after: Progress) -> bool:
    """Every `validate_every` steps, or with a budget at every VALIDATIONS-th part of it; 0: never."""
    run = config.run
    if run.budget > 0 and run.validate_every > 0:
        share = run.budget / VALIDATIONS
        return after.computations // share > before.computations // share
    return run.validate_every > 0 and after.step % run.validate_every == 0


def _record(run: Run, step: Step, progress: Progress, held_out: float | None) -> Record:
    assert step.target is not None
    seen_in = run.problem.operators.seen_in
    quality = step.share.gather(psnr(seen_in(step.x), seen_in(step.target)))
    return Record(
        step=progress.step, loss=float(step.loss.mean()), psnr=float(quality.mean()),
        accuracy=step.accuracy, step_size=step.step_size, error_bound=float(step.error_bound.max()),
        certified=float(step.certified.double().mean()), lower_iterations=float(step.lower_iterations.double().mean()),
        linear_iterations=float(step.linear_iterations.double().mean()), computations=progress.computations,
        seconds=progress.seconds, validation_psnr=held_out,
    )  # fmt: skip


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
def _stop_requests() -> Iterator[list[int]]:
    """SIGINT and the signals that end a program are noted, in a list, and answered between two steps; a second SIGINT
    interrupts at once."""
    requested: list[int] = []

    def note(number: int, frame: object) -> None:
        if requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, *ending_signals())}
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
