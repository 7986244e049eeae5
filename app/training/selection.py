"""Which parameters a run hands over: the last ones, their running mean, and among these the best on held-out images.

    mean_k = mean_{k-1} + (theta_k - mean_{k-1}) / min(k, window)

is the mean of all parameters at first and a moving average over about `window` steps later (Polyak and Juditsky, SIAM
J. Control Optim. 1992; exponential, so that it needs no end of the run).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Selection:
    """What is remembered beside the parameters themselves; tensors are replaced, never changed in place."""

    window: int  # steps of the running mean; 0: the parameters themselves
    keep_best: bool
    mean: tuple[Tensor, ...] = ()
    best: tuple[Tensor, ...] = ()
    numbers: dict[str, float] = field(default_factory=lambda: {"best_psnr": -torch.inf, "waited": 0.0})

    @torch.no_grad()
    def note(self, step: int, parameters: Sequence[Tensor]) -> None:
        """The parameters after so many steps."""
        if self.window:
            before, share = self.mean or parameters, 1 / min(step, self.window)
            self.mean = tuple(m + (p - m) * share for m, p in zip(before, parameters, strict=True))

    def judge(self, psnr: float, parameters: Sequence[Tensor]) -> None:
        """The held-out PSNR of what `candidate` hands over now."""
        if psnr > self.numbers["best_psnr"]:
            self.numbers = {"best_psnr": psnr, "waited": 0.0}
            self.best = tuple(p.detach().clone() for p in self.candidate(parameters)) if self.keep_best else ()
        else:
            self.numbers = {**self.numbers, "waited": self.numbers["waited"] + 1}

    def candidate(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """What is validated: the running mean, or the parameters."""
        return self.mean or parameters

    def chosen(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the run hands over."""
        return self.best or self.candidate(parameters)

    @property
    def waited(self) -> int:
        """Validations since the best one."""
        return int(self.numbers["waited"])

    def copy(self) -> "Selection":
        return Selection(self.window, self.keep_best, self.mean, self.best, self.numbers)

    def tensors(self) -> dict[str, Tensor]:
        """Flat, for a checkpoint."""
        lists = {f"{kind}.{i}": t for kind in ("mean", "best") for i, t in enumerate(getattr(self, kind))}
        return lists | {name: torch.tensor(value, dtype=torch.float64) for name, value in self.numbers.items()}

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """What `tensors` gave; nothing where a run that kept nothing now does."""
        for kind, wanted in (("mean", self.window > 0), ("best", self.keep_best)):
            count = sum(name.startswith(f"{kind}.") for name in tensors) if wanted else 0
            setattr(self, kind, tuple(tensors[f"{kind}.{i}"].to(device) for i in range(count)))
        self.numbers = {name: float(tensors.get(name, value)) for name, value in self.numbers.items()}


@contextmanager
@torch.no_grad()
def standing_in(parameters: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the parameters have the values of the others."""
    own = [p.clone() for p in parameters]
    try:
        for p, other in zip(parameters, others, strict=True):
            p.copy_(other)
        yield
    finally:
        for p, before in zip(parameters, own, strict=True):
            p.copy_(before)
