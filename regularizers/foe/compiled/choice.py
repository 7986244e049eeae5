"""The choice of the compiled kernel that computes a field of experts, by device and type of number."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from regularizers.foe.compiled import cpu, cuda
from regularizers.foe.compiled.bank import Bank


class CompiledKernel(Protocol):
    """Computes a field of experts in one pass over images x, v, q (B, C, H, W) that have their padding.

    The formulas are those of `regularizers.foe.functional`, with contrasts g and masks m, or 1:

        gradient   scale C^T m phi'(g C x) / g
        hessian    v -> scale C^T m phi''(g C x) C v
        summary    sum_i m |phi''(g C x)|, (B, K), and scale (C o C)^T m |phi''(g C x)|, C o C the entries squared
        mixed      d/d parameters of <scale C^T m phi'(g C x) / g, q>, summed over the batch
    """

    def gradient(self, bank: Bank, x: Tensor) -> Tensor: ...
    def hessian(self, bank: Bank, x: Tensor) -> Callable[[Tensor], Tensor]: ...
    def summary(self, bank: Bank, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def mixed(self, bank: Bank, x: Tensor, q: Tensor) -> tuple[Tensor, ...]: ...


def fastest(x: Tensor, filter_size: int, potential: str, group_size: int = 1) -> CompiledKernel | None:
    """Return the compiled kernel for images x (B, C, H, W) of this device and type; None where torch alone must
    compute."""
    if x.dtype not in (torch.float32, torch.float64):
        return None
    if x.device.type == "cpu":
        return cpu.compiled_kernel(x.dtype, filter_size, potential, group_size)
    if x.device.type == "cuda" and torch.version.cuda:  # ROCm calls itself cuda
        return cuda.compiled_kernel(potential, group_size)
    return None
