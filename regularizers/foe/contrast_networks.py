"""Networks that say how an adaptive field of experts changes its potentials: z (B, C, H, W) -> planes (B, P, H, W).

Both see z in units of a noise level, through zero-mean filters without their signs, so that neither brightness nor
which side is brighter counts. The planes are contrasts g = LARGEST^tanh(..), 1 at first, of K potentials, P = K, or
these and masks m = 1 / (1 + exp(.. - 3)), 0.95 at first, P = 2 K. Parameters are numbers of size one, scaled so that
outputs are as large as inputs: the step size that suits the parameters of a field of experts then suits them too.

Layers would take several times the memory of all else, so that what is not differentiated is computed strip by strip.
"""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regularizers.noise_levels import REFERENCE

FIRST, SIZE = 7, 3  # sides of filters
STRIP = 16_000_000  # bytes of a layer at a time, where nothing is to be differentiated
BEGINNING = 3.0  # of masks: m = 1 / (1 + exp(-3)), where they can still move
Rows = Callable[[int, int], Tensor]  # (first, last) -> planes (B, P, last - first, W)


class ContrastNetwork(Protocol):
    """Maps z, in units of a noise level, to planes. largest: of g and of 1 / g."""

    largest: float

    def __call__(self, z: Tensor, unit: float) -> Tensor: ...  # (B, C, H, W) -> (B, P, H, W)
    def rows(self, z: Tensor, unit: float) -> Rows: ...


class Dilated(nn.Module):
    """|c_j * z| of `width` filters, dilated 3 x 3 filters with ReLU, and a mixture of channels for each plane."""

    largest = 4.0
    dilations = (2, 4)
    reach = FIRST // 2 + SIZE // 2 * sum(dilations)  # g sees pixels so far away in each direction

    def __init__(self, channels: int, width: int, potentials: int, masks: bool = False) -> None:
        super().__init__()
        planes, self.contrasts = potentials * (1 + masks), potentials
        generator = torch.Generator().manual_seed(0)

        def layer(n: int, m: int, size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n, m, size, size, generator=generator))

        self.first = layer(width, channels, FIRST)
        self.hidden = nn.ParameterList(layer(width, width, SIZE) for _ in self.dilations)
        self.last = nn.Parameter(torch.zeros(planes, width, 1, 1))
        self.biases = nn.ParameterList(torch.zeros(width) for _ in self.dilations)
        self.last_bias = nn.Parameter(torch.zeros(planes))

    def forward(self, z: Tensor, unit: float) -> Tensor:  # (B, C, H, W) -> (B, P, H, W)
        if torch.is_grad_enabled():
            return self._planes(z / unit)
        return in_strips(self.rows(z, unit), z, len(self.first), len(self.last))

    def rows(self, z: Tensor, unit: float) -> Rows:  # (B, C, H, W)
        z = z / unit

        def of(first: int, last: int) -> Tensor:
            above = min(first, self.reach)
            return self._planes(z[:, :, first - above : last + self.reach])[:, :, above : above + last - first]

        return of

    def _planes(self, z: Tensor) -> Tensor:
        u = _first(z, self.first)
        for layer, bias, dilation in zip(self.hidden, self.biases, self.dilations, strict=True):
            u = F.conv2d(_around(u, dilation), _scaled(layer), bias, dilation=dilation).relu()
        return _bounded(F.conv2d(u, _scaled(self.last), self.last_bias), self.contrasts, self.largest)


class Unet(nn.Module):
    """A U-net of three resolutions, with `width`, 1.5 `width` and 2 `width` channels: |c_j * z|, two filters of stride
    2, BLOCKS residual blocks at a quarter of the resolution, where most parameters are, and the way back up.

    levels: for a regularizer of many noise levels, of which the unit is one; its logarithm is then an input, too.
    """

    largest = 8.0
    blocks = 4
    stride = 4
    halo = 16  # rows around a strip, of which 12 have a part in it

    def __init__(self, channels: int, width: int, potentials: int, masks: bool = False, levels: bool = False) -> None:
        super().__init__()
        self.contrasts = potentials
        generator, half, quarter = torch.Generator().manual_seed(0), 3 * width // 2, 2 * width

        def layer(n: int, m: int, size: int = SIZE, stride: int = 1) -> _Layer:
            return _Layer(torch.randn(n, m, size, size, generator=generator), stride)

        def idle(n: int, m: int, size: int) -> _Layer:  # at first
            return _Layer(torch.zeros(n, m, size, size))

        self.first = nn.Parameter(torch.randn(width, channels, FIRST, FIRST, generator=generator))
        self.down = nn.ModuleList([layer(half, width, stride=2), layer(quarter, half, stride=2)])
        self.residual = nn.ModuleList(
            nn.ModuleList([layer(quarter, quarter), idle(quarter, quarter, SIZE)]) for _ in range(self.blocks)
        )
        self.up = nn.ModuleList([layer(half, quarter, 1), layer(width, half, 1)])
        self.fused = nn.ModuleList([layer(half, half), layer(width, width)])
        self.last = idle(potentials * (1 + masks), width, 1)
        self.by_level = nn.Parameter(torch.zeros(quarter, 1, 1)) if levels else None

    def forward(self, z: Tensor, unit: float) -> Tensor:  # (B, C, H, W) -> (B, P, H, W)
        if not torch.is_grad_enabled():
            return in_strips(self.rows(z, unit), z, len(self.first), len(self.last.bias))
        fine, half, quarter = self._down(self._whole_blocks(z / unit))
        return self._up(fine, half, self._context(quarter, unit))[:, :, : z.shape[2], : z.shape[3]]

    def rows(self, z: Tensor, unit: float) -> Rows:  # (B, C, H, W)
        """Return what computes rows of planes, from all of the lowest resolution: as much memory as a few images."""
        width, z = z.shape[3], self._whole_blocks(z / unit)

        def around(first: int, last: int) -> tuple[int, int]:
            step = self.stride
            first, last = first // step * step - self.halo, -(-last // step) * step + self.halo
            return max(first, 0), min(last, z.shape[2])

        def lowest(first: int, last: int) -> Tensor:  # of rows at the lowest resolution
            top, bottom = around(self.stride * first, self.stride * last)
            found = self._down(z[:, :, top:bottom])[-1]
            return found[:, :, first - top // self.stride : last - top // self.stride]

        few = z[:, :, :: self.stride]
        context = self._context(
            torch.cat([lowest(*part) for part in strips(few.shape[2], self.stride * len(self.first), few)], 2), unit
        )

        def of(first: int, last: int) -> Tensor:
            top, bottom = around(first, last)
            fine, half = self._down(z[:, :, top:bottom])[:2]
            low = context[:, :, top // self.stride : bottom // self.stride]
            return self._up(fine, half, low)[:, :, first - top : last - top, :width]

        return of

    def _whole_blocks(self, z: Tensor) -> Tensor:
        """Return z with its last row and column repeated until the resolution can be halved twice."""
        return F.pad(z, (0, -z.shape[3] % self.stride, 0, -z.shape[2] % self.stride), mode="replicate")

    def _down(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return |c_j * z|, and features at half and a quarter of the resolution."""
        fine = _first(z, self.first)
        half = self.down[0](fine).relu()
        return fine, half, self.down[1](half).relu()

    def _context(self, u: Tensor, unit: float) -> Tensor:
        if self.by_level is not None:
            u = u + math.log(unit / REFERENCE) * self.by_level
        for block in self.residual:
            first, second = block  # type: ignore[misc]
            u = u + second(first(u).relu())
        return u

    def _up(self, fine: Tensor, half: Tensor, quarter: Tensor) -> Tensor:
        half = self.fused[0]((half + _doubled(self.up[0](quarter))).relu()).relu()
        fine = self.fused[1]((fine + _doubled(self.up[1](half))).relu()).relu()
        return _bounded(self.last(fine), self.contrasts, self.largest)


class _Layer(nn.Module):
    """A convolution of numbers of size one."""

    def __init__(self, weight: Tensor, stride: int = 1) -> None:
        super().__init__()
        self.weight, self.bias, self.stride = nn.Parameter(weight), nn.Parameter(torch.zeros(len(weight))), stride

    def forward(self, u: Tensor) -> Tensor:
        margin = self.weight.shape[-1] // 2
        return F.conv2d(_around(u, margin) if margin else u, _scaled(self.weight), self.bias, self.stride)


def strips(rows: int, channels: int, x: Tensor) -> Iterator[tuple[int, int]]:  # (B, C, H, W)
    """Yield (first, last) of parts of so many rows of a layer with these channels on the images x."""
    step = max(1, STRIP // (x.element_size() * channels * len(x) * x.shape[3]))
    yield from ((first, min(first + step, rows)) for first in range(0, rows, step))


def in_strips(rows: Rows, z: Tensor, channels: int, planes: int) -> Tensor:
    """Return planes (B, P, H, W) on all rows of z, from a few at a time of layers with these channels."""
    found = z.new_empty(len(z), planes, *z.shape[2:])
    for first, last in strips(z.shape[2], channels, z):
        found[:, :, first:last] = rows(first, last)
    return found


def _first(z: Tensor, filters: Tensor) -> Tensor:
    centred = filters - filters.mean((2, 3), keepdim=True)
    return F.conv2d(_around(z, FIRST // 2), _scaled(centred)).abs()


def _bounded(u: Tensor, contrasts: int, largest: float) -> Tensor:  # (B, P, H, W)
    contrasts_of, masks_of = u[:, :contrasts], u[:, contrasts:]
    g = (math.log(largest) * contrasts_of.tanh()).exp()
    return torch.cat([g, (BEGINNING - masks_of).sigmoid()], 1) if masks_of.numel() else g


def _scaled(layer: Tensor) -> Tensor:
    return layer * (2 / layer[0].numel()) ** 0.5


def _around(x: Tensor, margin: int) -> Tensor:
    return F.pad(x, (margin,) * 4, mode="replicate")


def _doubled(u: Tensor) -> Tensor:
    return F.interpolate(u, scale_factor=2, mode="bilinear")
