"""An adaptive field of experts: what counts as an edge differs from pixel to pixel.

    R(x; z) = scale sum_k sum_i phi(g_ki(z) (c_k * x)_i; w_k, s_k) / g_ki(z)^2,

with z the reconstruction by a guide, a field of experts that was trained before and does not change, and g > 0 the
output of a small convolutional network. With t = g u the derivatives by a response u are phi'(t) / g and phi''(t):
the contrast g stretches the potential (thresholds are divided by g) and leaves the range of its curvature as it is, so
-rho <= d2R/dx2 <= L with the bounds for g = 1, whatever the network says. z is found first and does not change while x
is sought: a certificate bounds the distance to argmin_x 1/2 ||A x - y||^2 + R(x; z) for this z.

(Masks m_ki(z) phi(u) from a first reconstruction: Neumayer and Altekrueger, arXiv 2406.12289. With m <= 1 they keep the
curvature, too, but they can only weaken a filter, and where they do a potential is less than rho-weakly convex.)
"""

import math
from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.foe.module import FieldOfExperts
from regularizers.noise_levels import REFERENCE
from regularizers.regularizer import Regularizer

FIRST, SIZE = 7, 3  # sides of the filters of the network
DILATIONS = (2, 4)  # of the hidden layers of the network
REACH = FIRST // 2 + SIZE // 2 * sum(DILATIONS)  # g sees pixels so far away in each direction
LARGEST = 4.0  # of g and of 1 / g
STRIP = 4_000_000  # numbers in a layer at a time, where nothing is to be differentiated


class ContrastNetwork(nn.Module):
    """The map from z (B, C, H, W) to g (B, K, H, W), which is 1 at first.

    Its layers are |c_j * z| of `width` zero-mean filters, dilated 3 x 3 filters with ReLU, and a mixture of channels
    for each log g_k. They hold numbers of size one, which are scaled so that outputs are as large as inputs: the step
    size that suits the parameters of a field of experts then suits them too.
    """

    def __init__(self, channels: int, width: int, filters: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def layer(n: int, m: int, size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n, m, size, size, generator=generator))

        self.first = layer(width, channels, FIRST)
        self.hidden = nn.ParameterList(layer(width, width, SIZE) for _ in DILATIONS)
        self.last = nn.Parameter(torch.zeros(filters, width, 1, 1))
        self.biases = nn.ParameterList(torch.zeros(width) for _ in DILATIONS)
        self.last_bias = nn.Parameter(torch.zeros(filters))

    def forward(self, z: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H, W)
        """Return g, strip by strip of a large image, whose layers would take several times the memory of all else."""
        if torch.is_grad_enabled():
            return self._contrasts(z)
        batch, _, height, width = z.shape
        found = z.new_empty(batch, len(self.last), height, width)
        rows = max(1, STRIP // (batch * len(self.first) * width))
        for i in range(0, height, rows):
            above = min(i, REACH)
            strip = self._contrasts(z[:, :, i - above : i + rows + REACH])
            found[:, :, i : i + rows] = strip[:, :, above : above + rows]
        return found

    def _contrasts(self, z: Tensor) -> Tensor:
        first = self.first - self.first.mean((2, 3), keepdim=True)
        u = F.conv2d(_around(z, FIRST // 2), _scaled(first)).abs()
        for layer, bias, dilation in zip(self.hidden, self.biases, DILATIONS, strict=True):
            u = F.conv2d(_around(u, dilation), _scaled(layer), bias, dilation=dilation).relu()
        return (math.log(LARGEST) * F.conv2d(u, _scaled(self.last), self.last_bias).tanh()).exp()


def _scaled(layer: Tensor) -> Tensor:
    return layer * (2 / layer[0].numel()) ** 0.5


def _around(x: Tensor, margin: int) -> Tensor:
    return F.pad(x, (margin,) * 4, mode="replicate")


class Adaptive(Regularizer):
    """A base, which is a field of experts, and a network that are learned. The guide is a copy of the base as it comes,
    and its tensors stay as they are.

    base: trained already, or to be loaded.  width: channels of the network.
    """

    def __init__(self, base: FieldOfExperts, width: int) -> None:
        super().__init__(base.noise_nodes)
        self.base, self.guide = base, deepcopy(base)
        channels, filters = base.functional().filters.shape[1::-1]
        self.network = ContrastNetwork(channels, width, filters)
        self.condition: Tensor | None = None  # z

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield those of the base and the network, without those of the guide."""
        guide = f"{prefix}{'.' if prefix else ''}guide."
        for name, p in super().named_parameters(prefix, recurse, remove_duplicate):
            if not name.startswith(guide):
                yield name, p

    def guide_at_level(self) -> Regularizer:
        return self.guide.at(self.noise_level)

    def conditioned_on(self, z: Tensor) -> Self:  # (B, C, H, W)
        """Return R(.; z): a view with the same parameters, where derivatives by them arrive."""
        view = copy(self)
        view.condition = z
        return view

    def functional(self) -> FieldOfExpertsFunctional:
        """Return R(.; z), or R for g = 1 where there is no z yet."""
        functional = self.base.at(self.noise_level).functional()
        if self.condition is None:
            return functional
        # In units of the noise: one network for all levels then sees much the same at all of them.
        contrasts = self.network(self.condition / (self.noise_level if self.noise_nodes else REFERENCE))
        if self.base.boundary == "valid":
            r = functional.filters.shape[-1] // 2
            contrasts = contrasts[:, :, r : contrasts.shape[2] - r, r : contrasts.shape[3] - r]
        return replace(functional, contrasts=contrasts)
