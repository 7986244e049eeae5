"""The processes of one program, as torchrun starts them: who they are, and what they tell each other.

    exchange(t_r) = (t_0, ..., t_{N-1}) on every rank r,    sum = ((t_0 + t_1) + t_2) + ...

A sum in the order of the ranks has the same bits everywhere, so whatever all ranks compute from exchanged numbers is
the same, too. One process alone is the case N = 1 of the same code.

Rank 0 speaks and writes for all; the others are silent. Where a rank is lost, the others notice at their next exchange,
at the latest after `timeout` seconds. They then call the roll, and the first that answers says in one line who failed.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as torch_distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from app.ranks import launched, local_rank, processes_here, speak

ROLL_CALL = 5.0  # seconds in which a rank that lives answers
POLL = 0.05  # seconds between looks
LOST, STOPPED = "lost contact", "it was interrupted"  # ends that are not a process' own fault


class ProcessError(RuntimeError):
    """A process of the program was lost, failed, or no longer holds what the others hold; the message names it."""


class _LostContact(ProcessError):
    """An exchange ended without the tensors of the others; why is not known yet."""


@dataclass(frozen=True)
class Processes:
    """Ranks 0 ... count - 1, of which this process is one. All of them call the same methods in the same order."""

    rank: int = 0
    count: int = 1
    restarted: bool = False  # whether torchrun has started them anew after one was lost

    @property
    def first(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    def exchange(self, own: Tensor) -> list[Tensor]:  # (...), the same shape on all ranks
        """Return the tensors of all ranks, in their order. Raises ProcessError where one is lost."""
        if self.count == 1:
            return [own]
        own = own.contiguous()
        found = [torch.empty_like(own) for _ in range(self.count)]
        with _contact():
            torch_distributed.all_gather(found, own)
        return found

    def numbers(self, own: float) -> list[float]:
        """Return one number of each rank. Raises ProcessError."""
        return [float(t) for t in self.exchange(torch.tensor(own, dtype=torch.float64))]

    def objects(self, own: Any) -> list[Any]:
        """Return an object of each rank, whatever it is. Raises ProcessError."""
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        with _contact():
            torch_distributed.all_gather_object(found, own)
        return found

    def handed_in(self, own: Any) -> list[Any]:
        """Return on rank 0 an object of each rank, and on the others nothing. Raises ProcessError."""
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count if self.first else []
        with _contact():
            torch_distributed.gather_object(own, found if self.first else None)
        return found

    def of_first(self, own: Any) -> Any:
        """Return the object of rank 0 on all ranks. Raises ProcessError."""
        return self.objects(own if self.first else None)[0]

    def own_part(self, costs: Sequence[float]) -> list[int]:
        """Return which of the jobs with these costs are those of this rank, in their order. The most expensive ones are
        given away first, each to the rank that has the least to do."""
        loads, own = [0.0] * self.count, []
        for job in sorted(range(len(costs)), key=lambda n: -costs[n]):
            rank = loads.index(min(loads))
            loads[rank] += costs[job]
            own += [job] * (rank == self.rank)
        return sorted(own)


ALONE = Processes()


@contextmanager
def joined(device: torch.device, timeout: float) -> Iterator[Processes]:
    """Join the processes that torchrun started with this one, for as long as the context lasts; without torchrun, this
    process is alone. timeout: seconds that one waits for another. Raises ProcessError that names a rank that failed."""
    if not launched():
        yield ALONE
        return
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _take_own_resources(device)
    patience = timedelta(seconds=timeout)
    with _contact():
        common, _, _ = next(rendezvous("env://", rank, count, timeout=patience))
        # Each time that the processes join has names of its own.
        store = PrefixStore(f"join {common.add(f'joins of {rank}', 1)}", common)
        store.set(f"who/{rank}", f"rank {rank} (process {os.getpid()} on {socket.gethostname()})")
        torch_distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", store), rank=rank, world_size=count, timeout=patience,
        )  # fmt: skip
    try:
        yield Processes(rank, count, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0)
    except BaseException as error:
        for number in (signal.SIGTERM, signal.SIGINT):  # torchrun sends them where a rank is lost; this one ends anyway
            signal.signal(number, signal.SIG_IGN)
        _leave()
        if fault := _roll_call(store, rank, count, error):
            raise ProcessError(fault) from None
        raise
    _leave()


def _take_own_resources(device: torch.device) -> None:
    """Take a share of the cores, unless the user said how many threads, and the GPU that torchrun means for this rank:
    it is then the current one, which "cuda" means."""
    if not _user_set_threads():
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes_here()))
    if device.type == "cuda":
        torch.cuda.set_device(local_rank() if device.index is None else device)


def _user_set_threads() -> bool:
    """Whether OMP_NUM_THREADS is the user's. torchrun sets it to 1 where the user did not; what torchrun itself was
    started with says so."""
    with suppress(OSError), open(f"/proc/{os.getppid()}/environ", "rb") as file:
        return b"OMP_NUM_THREADS" in {entry.partition(b"=")[0] for entry in file.read().split(b"\0")}
    return os.environ.get("OMP_NUM_THREADS", "1") != "1"


@contextmanager
def _contact() -> Iterator[None]:
    """Turn whatever torch raises where another process is lost into _LostContact."""
    try:
        yield
    except (RuntimeError, torch_distributed.DistError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _LostContact(f"the processes lost contact: {lines[0]}") from None


def _leave() -> None:
    """Close all connections, so that nobody waits for this process."""
    with suppress(Exception):
        torch_distributed.destroy_process_group()


def _roll_call(store: Any, rank: int, count: int, error: BaseException) -> str:
    """Return who failed and why, "" where it was this process itself, or all did the same. The lowest rank that answers
    is the one that speaks from here on."""
    lost, stopped = isinstance(error, _LostContact), isinstance(error, KeyboardInterrupt)
    own = LOST if lost else STOPPED if stopped else " ".join(f"{type(error).__name__}: {error}".split())
    no_fault = {LOST, STOPPED} if stopped else {LOST}
    try:
        store.set(f"end/{rank}", own)
        if not (lost or stopped):
            return ""
        others = [r for r in range(count) if r != rank]
        answers = _answers(store, others)
        if all(answers.get(r) is None for r in range(rank)):
            speak()
        for r in others:
            if answers.get(r) is None:
                return f"{_name(store, r)} ended without a word, or did not answer: it was killed, or it hangs"
        return next((f"{_name(store, r)}: {answers[r]}" for r in others if answers[r] not in no_fault), "")
    except RuntimeError:  # the store is gone, too, with the machine that held it
        speak()
        return "the processes lost contact with the machine that started them"


def _answers(store: Any, ranks: list[int]) -> dict[int, str]:
    """What the other ranks said at their end, as far as they say it in time."""
    answers: dict[int, str] = {}
    until = time.monotonic() + ROLL_CALL
    while len(answers) < len(ranks) and time.monotonic() < until:
        for r in ranks:
            if r not in answers and store.check([f"end/{r}"]):
                answers[r] = store.get(f"end/{r}").decode()
        time.sleep(POLL)
    return answers


def _name(store: Any, rank: int) -> str:
    return store.get(f"who/{rank}").decode() if store.check([f"who/{rank}"]) else f"rank {rank}"
