"""Which kernel computes a field of experts on which device."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from regularizers.foe.compiled import cpu, cuda
from regularizers.foe.compiled.bank import Bank


class Kernel(Protocol):
    """Images (B, C, H, W) come with their padding; the formulas are those of `regularizers.foe.functional`."""

    def gradient(self, bank: Bank, x: Tensor) -> Tensor: ...

    def hessian(self, bank: Bank, x: Tensor) -> Callable[[Tensor], Tensor]: ...

    def summary(self, bank: Bank, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def mixed(self, bank: Bank, x: Tensor, q: Tensor) -> tuple[Tensor, ...]: ...


def fastest(x: Tensor, filter_size: int, potential: str) -> Kernel | None:
    """For images like x; None where torch alone must do."""
    if x.dtype not in (torch.float32, torch.float64):
        return None
    if x.device.type == "cpu":
        return cpu.kernel(x.dtype, filter_size, potential)
    if x.device.type == "cuda" and torch.version.cuda:  # ROCm calls itself cuda
        return cuda.kernel(potential)
    return None
