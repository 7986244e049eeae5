"""A field of experts by plain convolutions and automatic differentiation: slow, but easy to believe."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from regularizers.foe.filter_bank import pad
from regularizers.foe.functional import FieldOfExpertsFunctional


@dataclass(frozen=True)
class AutogradField:
    """R of the same filters, weights and smoothings; every derivative through torch.autograd."""

    functional: FieldOfExpertsFunctional

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        f = self.functional
        u = F.conv2d(pad(x, f.filters.shape[-1], f.boundary), f.filters)
        return f.scale * f.potential.value(u, f.weights, f.smoothings).sum((1, 2, 3))

    def gradient(self, x: Tensor, keep_graph: bool = False) -> Tensor:
        """With keep_graph, for a given x that requires a gradient, itself differentiable."""
        with torch.enable_grad():
            x = x if keep_graph else x.detach().requires_grad_()
            return torch.autograd.grad(self.value(x).sum(), x, create_graph=keep_graph)[0]

    def hessian_product(self, x: Tensor, v: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.gradient(x, keep_graph=True), x, v)[0]

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        """d/d(filters, weights, smoothings) of sum_b <dR/dx(x_b), q_b>."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            filters, weights, smoothings = (t.detach().requires_grad_() for t in self.functional.natural)
            leaves = replace(self.functional, filters=filters, weights=weights, smoothings=smoothings)
            g = AutogradField(leaves).gradient(x, keep_graph=True)
            return torch.autograd.grad((g * q).sum(), leaves.natural)
