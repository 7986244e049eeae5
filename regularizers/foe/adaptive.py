"""An adaptive field of experts: what counts as an edge differs from pixel to pixel.

    R(x; z) = scale sum_k sum_i phi(g_ki(z) (c_k * x)_i; w_k, s_k) / g_ki(z)^2,

with z the reconstruction by a guide, a field of experts that was trained before and does not change, and g > 0 the
output of a small convolutional network; groups of responses have a g each. With t = g u the derivatives by a response u
are phi'(t) / g and phi''(t): the contrast g stretches the potential (thresholds are divided by g) and leaves the range
of its curvature as it is, so -rho <= d2R/dx2 <= L with the bounds for g = 1, whatever the network says. z is found
first and does not change while x is sought: a certificate bounds the distance to argmin_x 1/2 ||A x - y||^2 + R(x; z)
for this z.

(Masks m_ki(z) phi(u) from a first reconstruction: Neumayer and Altekrueger, arXiv 2406.12289. With m <= 1 they keep the
curvature, too, but they can only weaken a filter, and where they do a potential is less than rho-weakly convex.)
"""

import math
from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regularizers.foe.filter_bank import pad, pad_adjoint
from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.foe.module import FieldOfExperts
from regularizers.noise_levels import REFERENCE
from regularizers.regularizer import Regularizer

FIRST, SIZE = 7, 3  # sides of the filters of the network
DILATIONS = (2, 4)  # of the hidden layers of the network
REACH = FIRST // 2 + SIZE // 2 * sum(DILATIONS)  # g sees pixels so far away in each direction
LARGEST = 4.0  # of g and of 1 / g
STRIP = 16_000_000  # bytes of a layer at a time, where nothing is to be differentiated


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
        found = z.new_empty(len(z), len(self.last), *z.shape[2:])
        for first, last in strips(z.shape[2], len(self.first), z):
            found[:, :, first:last] = self.of_rows(z, first, last)
        return found

    def of_rows(self, z: Tensor, first: int, last: int) -> Tensor:  # (B, C, H, W) -> (B, K, last - first, W)
        """Return g in these rows."""
        above = min(first, REACH)
        return self._contrasts(z[:, :, first - above : last + REACH])[:, :, above : above + last - first]

    def _contrasts(self, z: Tensor) -> Tensor:
        first = self.first - self.first.mean((2, 3), keepdim=True)
        u = F.conv2d(_around(z, FIRST // 2), _scaled(first)).abs()
        for layer, bias, dilation in zip(self.hidden, self.biases, DILATIONS, strict=True):
            u = F.conv2d(_around(u, dilation), _scaled(layer), bias, dilation=dilation).relu()
        return (math.log(LARGEST) * F.conv2d(u, _scaled(self.last), self.last_bias).tanh()).exp()


def strips(rows: int, channels: int, x: Tensor) -> Iterator[tuple[int, int]]:  # (B, C, H, W)
    """Yield (first, last) of parts of so many rows of a layer with these channels on the images x."""
    step = max(1, STRIP // (x.element_size() * channels * len(x) * x.shape[3]))
    yield from ((first, min(first + step, rows)) for first in range(0, rows, step))


@dataclass(frozen=True)
class InStrips:
    """R(.; z) for a single gradient: the contrasts of few rows are held at a time. All else asks for the whole."""

    base: FieldOfExpertsFunctional  # R for g = 1
    network: ContrastNetwork
    z: Tensor  # (B, C, H, W), in the units of the network

    @cached_property
    def whole(self) -> FieldOfExpertsFunctional:
        contrasts = self.network(self.z)
        r = self._outside
        return replace(self.base, contrasts=contrasts[:, :, r : contrasts.shape[2] - r, r : contrasts.shape[3] - r])

    @torch.no_grad()
    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        filters, r = self.base.filters, self._outside
        padded = pad(x, filters.shape[-1], self.base.boundary)
        g, reach = torch.zeros_like(padded), filters.shape[-1] - 1
        for first, last in strips(padded.shape[2] - reach, len(filters), padded):
            contrasts = self.network.of_rows(self.z, first + r, last + r)
            part = replace(self.base, boundary="valid", contrasts=contrasts[..., r : contrasts.shape[3] - r])
            g[:, :, first : last + reach] += part.gradient(padded[:, :, first : last + reach])
        return pad_adjoint(g, filters.shape[-1], self.base.boundary)

    def curvature(self) -> tuple[float, float]:
        return self.base.curvature()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    @property
    def _outside(self) -> int:
        """How far pixels without a response reach into the image."""
        return self.base.filters.shape[-1] // 2 if self.base.boundary == "valid" else 0


def _scaled(layer: Tensor) -> Tensor:
    return layer * (2 / layer[0].numel()) ** 0.5


def _around(x: Tensor, margin: int) -> Tensor:
    return F.pad(x, (margin,) * 4, mode="replicate")


class Adaptive(Regularizer):
    """A base, which is a field of experts, and a network that are learned. The guide is a copy of the base as it comes,
    and its tensors stay as they are.

    in_strips: whether R that is not differentiated in theta computes contrasts anew for every gradient, to save memory.
    base: trained already, or to be loaded.  width: channels of the network.
    """

    in_strips = False

    def __init__(self, base: FieldOfExperts, width: int) -> None:
        super().__init__(base.noise_nodes)
        self.base, self.guide = base, deepcopy(base)
        functional = base.functional()
        self.network = ContrastNetwork(functional.filters.shape[1], width, len(functional.weights))
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

    def promoted(self) -> Self:
        """Return a copy in float64, of which a single gradient takes no more memory than R in float32."""
        view = super().promoted()
        view.in_strips = True
        return view

    def functional(self) -> FieldOfExpertsFunctional | InStrips:
        """Return R(.; z), or R for g = 1 where there is no z yet."""
        functional = self.base.at(self.noise_level).functional()
        if self.condition is None:
            return functional
        # In units of the noise: one network for all levels then sees much the same at all of them.
        z = self.condition / (self.noise_level if self.noise_nodes else REFERENCE)
        found = InStrips(functional, self.network, z)
        return found if self.in_strips and not torch.is_grad_enabled() else found.whole
