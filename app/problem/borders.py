"""Blur of an image that goes on behind its border, where a camera saw it but nobody knows it:

    A = S K P,

K a circular operator on a larger image. S keeps the measurements that K computes without wrapping round. P makes the
larger image:

    valid      P = I: the image is larger than what was seen, by as much as the kernel reaches over the border
    reflect    P continues the image by its mirror image

||A||^2 <= ||K||^2 max(P^T 1), as P^T P is the diagonal of how often each pixel is copied. lambda_min >= 0 is all that
is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from app.problem.operators import LinearOperator, Operators


@dataclass(frozen=True, kw_only=True)
class BorderOperator(LinearOperator):
    """A = S K P; `physics` is that of the circular operator on the image itself."""

    larger: LinearOperator  # K
    like: LinearOperator  # the circular operator on the image itself
    reach: tuple[int, int, int, int]  # left, right, top, bottom: what S drops, in pixels of the measurement
    copied: tuple[Tensor, Tensor] | None  # rows and columns of the image that P puts side by side; None: P = I

    @property
    def normal_model(self) -> tuple[Tensor | float, Tensor | float]:
        """The mean of what is known without a border and of ||K||^2, for want of what is known with one. P need not be
        A^T A; with this mean, solvers take fewer gradients than with either alone."""
        known, norm_squared = self.like.normal_model, self.like.norm_squared
        assert known is not None  # of circular operators, and of nothing else
        return (known[0] + norm_squared) / 2, norm_squared

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, h, w)
        if self.copied is not None:
            x = x[:, :, self.copied[0][:, None], self.copied[1]]
        return F.pad(self.larger.forward(x), [-n for n in self.reach])

    def adjoint(self, y: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, H, W)
        x = self.larger.adjoint(F.pad(y, self.reach))
        for dim, places in enumerate(self.copied or (), 2):
            shape = [*x.shape[:dim], self.image_shape[dim - 1], *x.shape[dim + 1 :]]
            x = x.new_zeros(shape).index_add_(dim, places, x)
        return x

    def as_image(self, y: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, H, W)
        """Return what was seen, continued by its outermost pixels where the image is larger."""
        return self.like.as_image(F.pad(y, self.reach, mode="replicate") if self.copied is None else y)

    def take(self, images: Tensor) -> BorderOperator:
        return replace(self, larger=self.larger.take(images), like=self.like.take(images))


def with_border(border: str, circular: Operators, size: tuple[int, int], device: torch.device) -> Operators:
    """Return the operators of a border, circular | valid | reflect, from the circular ones.

    size: of the kernel (h, w), whose middle is pixel (h // 2, w // 2).
    """
    if border == "circular":
        return circular
    factor = circular.multiple
    (top, bottom), (left, right) = ((-(-((n - 1) // 2) // factor), -(-(n // 2) // factor)) for n in size)
    around = [(factor * top, factor * bottom), (factor * left, factor * right)]

    def build(shape: torch.Size, images: tuple[int, ...]) -> BorderOperator:
        larger = like = circular(shape, images)
        copied, copies = None, 1
        if border == "reflect":
            rows, columns = (_mirrored(n, width) for n, width in zip(shape[1:], around, strict=True))
            copies = int(rows.bincount().max() * columns.bincount().max())
            larger = circular(torch.Size((shape[0], len(rows), len(columns))), images)
            copied = (rows.to(device), columns.to(device))
        assert isinstance(like, LinearOperator) and isinstance(larger, LinearOperator)
        return BorderOperator(
            physics=like.physics, image_shape=shape, norm_squared=copies * larger.norm_squared,
            larger=larger, like=like, reach=(left, right, top, bottom), copied=copied,
        )  # fmt: skip

    if border == "reflect":
        return Operators(build, circular.image_shape, factor)

    def image_shape(y: torch.Size) -> torch.Size:
        return circular.image_shape(torch.Size((y[0], y[1] + top + bottom, y[2] + left + right)))

    inside = tuple(slice(before, -after or None) for before, after in around)
    return Operators(build, image_shape, factor, inside)


def _mirrored(size: int, around: tuple[int, int]) -> Tensor:
    """The rows of an image with its mirror image around it."""
    return torch.from_numpy(np.pad(np.arange(size), around, mode="reflect"))
