"""Which parameters a run hands over: the last ones, their running mean, and among these the best on held-out images.

    mean_k = mean_{k-1} + (theta_k - mean_{k-1}) / min(k, window)

is the mean of all parameters at first and a moving average over about `window` steps later (Polyak and Juditsky, SIAM
J. Control Optim. 1992; exponential, so that it needs no end of the run).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Selection:
    """What is remembered beside the parameters. Tensors are replaced, never changed in place: a copy is a snapshot."""

    window: int  # steps of the running mean; 0: the parameters themselves
    keep_best: bool
    mean: tuple[Tensor, ...] = ()
    best: tuple[Tensor, ...] = ()
    best_psnr: float = -torch.inf
    without_progress: int = 0  # validations since the best one

    @torch.no_grad()
    def note(self, step: int, parameters: Sequence[Tensor]) -> None:
        """Take in the parameters after so many steps."""
        if self.window:
            before, share = self.mean or parameters, 1 / min(step, self.window)
            self.mean = tuple(m + (p - m) * share for m, p in zip(before, parameters, strict=True))

    def judge(self, psnr: float, parameters: Sequence[Tensor]) -> None:
        """Take in the held-out PSNR of what `candidate` returns now."""
        if psnr > self.best_psnr:
            self.best_psnr, self.without_progress = psnr, 0
            self.best = tuple(p.detach().clone() for p in self.candidate(parameters)) if self.keep_best else ()
        else:
            self.without_progress += 1

    def candidate(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what is validated: the running mean, or the parameters."""
        return self.mean or parameters

    def chosen(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what the run hands over."""
        return self.best or self.candidate(parameters)

    def begin_anew(self) -> None:
        """Forget which parameters were the best, as of other held-out images."""
        self.best, self.best_psnr, self.without_progress = (), -torch.inf, 0

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a checkpoint."""
        lists = {f"{kind}.{i}": t for kind in ("mean", "best") for i, t in enumerate(getattr(self, kind))}
        numbers = {"best_psnr": self.best_psnr, "waited": self.without_progress}
        return lists | {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Put back what `tensors` returned; nothing where a run that kept nothing now does."""
        for kind, wanted in (("mean", self.window > 0), ("best", self.keep_best)):
            count = sum(name.startswith(f"{kind}.") for name in tensors) if wanted else 0
            setattr(self, kind, tuple(tensors[f"{kind}.{i}"].to(device) for i in range(count)))
        if "best_psnr" in tensors:
            self.best_psnr, self.without_progress = float(tensors["best_psnr"]), int(tensors["waited"])


@contextmanager
@torch.no_grad()
def swapped_in(parameters: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """Give the parameters the values of the others, for as long as the context lasts."""
    own = [p.clone() for p in parameters]
    try:
        for p, other in zip(parameters, others, strict=True):
            p.copy_(other)
        yield
    finally:
        for p, before in zip(parameters, own, strict=True):
            p.copy_(before)
