"""Training patches: which images at which step, and which crop of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from datasets.files import printable
from datasets.images import ImageError, read_all, read_image
from datasets.random import CROPS, NOISE, ORDER, generator

Window = tuple[int, int, int]  # row and column of its first pixel, side


@dataclass(frozen=True, kw_only=True)
class PatchBatch:
    """The patches of one step."""

    images: tuple[int, ...]  # positions in the image set
    visits: tuple[int, ...]  # how often each was seen before; always 0 in the finite-sum setting
    clean: Tensor  # (B, C, p, p)
    measured: Tensor | None = None  # (B, C, h, w), of the clean patches
    masks: Tensor | None = None  # (B, 1, p, p)


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What belongs to images place by place, as measurements and masks do: it is cut and turned with them.

    source: one tensor (C', H, W) or file for each image.  read: of a file.  factor: rows of the image for each of its
    rows.  inset: rows above and below, columns left and right, that it lacks of a patch, in its own rows and columns;
    of a whole image it may lack them or not.
    """

    source: Sequence[Path] | Sequence[Tensor]
    read: Callable[[Path], Tensor]
    factor: int = 1
    inset: tuple[int, int, int, int] = (0, 0, 0, 0)

    @cached_property
    def images(self) -> list[Tensor]:
        """All of them. Raises ImageError."""
        return read_all(self.source, lambda s: s if isinstance(s, Tensor) else self.read(s))

    def check(self, n: int, shape: torch.Size) -> None:  # (C, H, W)
        """Raise ImageError where the one of image n is not of its size."""
        own, (whole, least) = self.images[n].shape[1:], self._sizes(shape)
        if tuple(own) not in (whole, least):
            name = f"number {n}" if isinstance(self.source[n], Tensor) else printable(self.source[n])
            sizes = [f"{w} x {h}" for h, w in (own, whole)]
            raise ImageError(f"{name} is {sizes[0]}, and what belongs to its image is {sizes[1]}")

    def cut(self, n: int, shape: torch.Size, window: Window | None) -> Tensor:  # -> (C', h, w)
        """Return the part that belongs to a patch of image n, whose shape is (C, H, W); None: to all of it."""
        own, (top, bottom, left, right), f = self.images[n], self.inset, self.factor
        row, column, size = window or (0, 0, 0)
        height, width = (size, size) if window else shape[1:]
        whole, _ = self._sizes(shape)
        above, before = (0, 0) if tuple(own.shape[1:]) == whole else (top, left)
        rows = slice(row // f + top - above, (row + height) // f - bottom - above)
        columns = slice(column // f + left - before, (column + width) // f - right - before)
        return own[:, rows, columns]

    def _sizes(self, shape: torch.Size) -> tuple[tuple[int, int], tuple[int, int]]:
        """Its size with, and without, what it may lack of an image."""
        (h, w), (top, bottom, left, right) = (n // self.factor for n in shape[1:]), self.inset
        return (h, w), (h - top - bottom, w - left - right)


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Batches as a pure function of the step: nothing to save, and any step can be drawn again.

    Images are visited without replacement: step k takes places k B ... k B + B - 1 of one random permutation after
    another. `fixed` is the finite-sum setting: one crop (and one noise) per image, whatever the visit.

    source: image files, read at first use, or tensors (C, H, W).  size: side of the patches; None: whole images.
    noise_level: above 0, every image is made noisy once, as it is read, and only that is learned from.
    measured, masks: what belongs to the images.  multiple: crops begin at such rows and columns.
    """

    source: Sequence[Path] | Sequence[Tensor]
    color: bool = False
    size: int | None = None
    seed: int = 0
    fixed: bool = True
    augment: bool = False
    noise_level: float = 0.0
    measured: Beside | None = None
    masks: Beside | None = None
    multiple: int = 1

    @cached_property
    def images(self) -> list[Tensor]:
        """All images (C, H, W), 8-bit ones kept as such: 500 colour photographs are 230 MB. Raises ImageError."""
        images = read_all(enumerate(self.source), self._image)
        for n, (source, image) in enumerate(zip(self.source, images, strict=True)):
            if self.size and min(image.shape[1:]) < self.size:
                h, w = image.shape[1:]
                name = f"image {n}" if isinstance(source, Tensor) else printable(source)
                raise ImageError(f"{name} is {w} x {h}, smaller than data.patch_size = {self.size}")
        for beside in filter(None, (self.measured, self.masks)):
            read_all(range(len(images)), lambda n, beside=beside: beside.check(n, images[n].shape))
        return images

    def _image(self, numbered: tuple[int, Path | Tensor]) -> Tensor:  # -> (C, H, W)
        n, source = numbered
        image = source if isinstance(source, Tensor) else read_image(source, self.color)
        if self.noise_level:
            image = image + self.noise_level * torch.randn(image.shape, generator=generator(self.seed, NOISE, n))
        eight_bit = (image * 255).round().to(torch.uint8)
        return eight_bit if torch.equal(_as_float(eight_bit), image) else image

    def load(self) -> None:
        """Read every image now, so that a bad one is found before training starts. Raises ImageError."""
        _ = self.images

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, step: int, size: int) -> PatchBatch:
        """Return the mini-batch of a step: `size` patches. Raises ImageError where whole images differ in size."""
        images, visits = self.places(step, size)
        patches = [self._patch(i, v) for i, v in zip(images, visits, strict=True)]
        clean, measured, masks = (list(own) for own in zip(*patches, strict=True))
        if len({patch.shape for patch in clean}) > 1:
            raise ImageError("the images of a batch differ in size: choose a patch size, or batches of one image")
        return PatchBatch(
            images=images, visits=visits, clean=torch.stack(clean),
            measured=torch.stack(measured) if self.measured else None, masks=torch.stack(masks) if self.masks else None,
        )  # fmt: skip

    def places(self, step: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return which images the mini-batch of a step takes, and at which of their visits."""
        places = range(step * size, (step + 1) * size)
        orders = {e: self._order(e) for e in {p // len(self) for p in places}}
        images = tuple(int(orders[p // len(self)][p % len(self)]) for p in places)
        return images, tuple(0 if self.fixed else p // len(self) for p in places)

    def shape(self, image: int) -> torch.Size:
        """Return the shape (C, H, W) of the patches of an image."""
        whole = self.images[image].shape
        return torch.Size((whole[0], self.size, self.size)) if self.size else whole

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self), generator=generator(self.seed, ORDER, epoch))

    def _patch(self, image: int, visit: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A clean patch, and what was measured and the mask that belong to it."""
        clean, draw = self.images[image], generator(self.seed, CROPS, image, visit)
        patch, window, turns, flip = clean, None, 0, False
        if size := self.size:
            m, room = self.multiple, [n - size for n in clean.shape[1:]]
            row, column = (m * int(torch.randint(n // m + 1, (), generator=draw)) for n in room)
            patch, window = clean[:, row : row + size, column : column + size], (row, column, size)
        if self.augment:
            turns, flip = int(torch.randint(4, (), generator=draw)), bool(torch.randint(2, (), generator=draw))

        def turned(patch: Tensor) -> Tensor:
            patch = _as_float(patch)
            return torch.rot90(patch.flip(2) if flip else patch, turns, (1, 2)) if self.augment else patch

        def beside(own: Beside | None) -> Tensor | None:
            return None if own is None else turned(own.cut(image, clean.shape, window))

        return turned(patch), beside(self.measured), beside(self.masks)


def centre_crop(image: Tensor, size: int) -> Tensor:  # (C, H, W) -> (C, min(H, size), min(W, size))
    """Return the middle of an image."""
    h, w = (min(n, size) for n in image.shape[1:])
    row, column = (image.shape[1] - h) // 2, (image.shape[2] - w) // 2
    return image[:, row : row + h, column : column + w]


def whole_blocks(image: Tensor, factor: int) -> Tensor:  # (C, H, W) -> (C, H - H % factor, W - W % factor)
    """Return an image without the last rows and columns that blocks of factor x factor pixels leave over."""
    h, w = (n - n % factor for n in image.shape[1:])
    return image[:, :h, :w]


def _as_float(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image
