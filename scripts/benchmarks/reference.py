"""A field of experts by plain convolutions and automatic differentiation: slow, but easy to believe."""

import torch.nn.functional as F
from torch import Tensor, nn

from regularizers import AutogradFunctional, Regularizer
from regularizers.foe.filter_bank import pad
from regularizers.foe.functional import FieldOfExpertsFunctional


class PlainField(Regularizer):
    """R of the filters, weights and smoothings of another field of experts, which are its parameters."""

    def __init__(self, field: FieldOfExpertsFunctional) -> None:
        super().__init__()
        self.field = field
        self.filters, self.weights, self.smoothings = (nn.Parameter(t.detach()) for t in field.natural)

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        u = F.conv2d(pad(x, self.filters.shape[-1], self.field.boundary), self.filters)
        return self.field.scale * self.field.potential.value(u, self.weights, self.smoothings).sum((1, 2, 3))

    def curvature(self) -> tuple[float, float]:
        return self.field.curvature()


def plain(field: FieldOfExpertsFunctional) -> AutogradFunctional:
    """Return R of the same filters, weights and smoothings, every derivative through torch.autograd."""
    names = ("filters", "weights", "smoothings")
    return AutogradFunctional(PlainField(field), dict(zip(names, field.natural, strict=True)))
