"""Several physics of one image, stacked by deepinv, as one: y = (A_1 x, A_2 x, ...), all numbers in a row."""

from deepinv.physics import LinearPhysics
from deepinv.physics.forward import StackedLinearPhysics
from deepinv.utils import TensorList
from torch import Tensor, cat, nn, view_as_real


class Joined(LinearPhysics):
    """A StackedLinearPhysics whose measurements are one tensor (B, M). Its adjoint is left to autograd."""

    def __init__(self, stack: StackedLinearPhysics) -> None:
        super().__init__()
        self.parts = nn.ModuleList(stack.physics_list)

    def A(self, x: Tensor, **kwargs) -> Tensor:  # (B, C, H, W) -> (B, M)
        return in_a_row([part.A(x, **kwargs) for part in self.parts])  # type: ignore[operator]


def in_a_row(y: TensorList | list[Tensor]) -> Tensor:  # (B, ...) each -> (B, M)
    """Return measurements by several physics as one real tensor; of complex numbers, both parts are kept."""
    return cat([(view_as_real(part) if part.is_complex() else part).flatten(1) for part in y], 1)
