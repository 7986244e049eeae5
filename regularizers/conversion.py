"""Modules in another precision."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def converted(module: M, dtype: torch.dtype) -> M:
    """Return a copy with every real and complex tensor in this precision, those that are plain attributes included.

    `Module.to` would drop the imaginary parts of complex buffers and leave plain attributes as they are.
    """
    precision = {True: dtype.to_complex(), False: dtype}

    def convert(t: Tensor) -> Tensor:
        return t.to(precision[t.is_complex()]) if t.is_complex() or t.is_floating_point() else t

    copy = deepcopy(module)._apply(convert)
    for part in copy.modules():
        vars(part).update({name: convert(t) for name, t in vars(part).items() if isinstance(t, Tensor)})
    return copy
