"""What a compiled kernel needs to know of a field of experts."""

from typing import Protocol

from torch import Tensor


class Bank(Protocol):
    """Declares the tensors of a field of experts; `regularizers.foe.functional` has them. With groups of d responses,
    all but the filters have K / d in the place of K."""

    @property
    def filters(self) -> Tensor: ...  # (K, C, s, s)
    @property
    def weights(self) -> Tensor: ...  # (K, 1, 1)
    @property
    def smoothings(self) -> Tensor: ...  # (K, 1, 1)
    @property
    def parameters(self) -> tuple[Tensor, ...]: ...  # filters, weights, smoothings and, of a spline, its shape (K, J)
    @property
    def contrasts(self) -> Tensor | None: ...  # (B, K, H - s + 1, W - s + 1) of padded images (B, C, H, W)
    @property
    def masks(self) -> Tensor | None: ...  # as the contrasts
    @property
    def scale(self) -> float: ...
