"""Training patches: which images at which step, and which crop of each."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.files import printable
from datasets.images import ImageError, as_float, compact, read_all, read_compact, read_image
from datasets.index import facts_of, threads, unchanged
from datasets.on_demand import OnDemand
from datasets.random import CROPS, NOISE, ORDER, generator

Own = Callable[[tuple[int, ...]], Sequence[int]]  # the images of a mini-batch -> places among them
AHEAD = 2  # steps whose images are read while one is computed
KNOWN = 1000  # bytes of the path, the facts and the fingerprint of an image file, at most: scripts/disk sees them

Window = tuple[int, int, int]  # row and column of its first pixel, side
Trio = tuple[Tensor, Tensor | None, Tensor | None]  # a clean image or patch, what was measured of it, its mask


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

    def own(self, n: int) -> Tensor:  # -> (C', H, W)
        """Return the one of image n. Raises ImageError."""
        source = self.source[n]
        return source if isinstance(source, Tensor) else self.read(source)

    @cached_property
    def least(self) -> float:
        """The smallest of all values. Raises ImageError."""
        return min(float(self.own(n).min()) for n in {source: n for n, source in enumerate(self.source)}.values())

    def check(self, n: int, shape: torch.Size) -> None:  # (C, H, W)
        """Raise ImageError where the one of image n is not of its size."""
        own, (whole, least) = self.own(n).shape[1:], self._sizes(shape)
        if tuple(own) not in (whole, least):
            name = f"number {n}" if isinstance(self.source[n], Tensor) else printable(self.source[n])
            sizes = [f"{w} x {h}" for h, w in (own, whole)]
            raise ImageError(f"{name} is {sizes[0]}, and what belongs to its image is {sizes[1]}")

    def cut(self, own: Tensor, shape: torch.Size, window: Window | None) -> Tensor:  # (C', H', W') -> (C', h, w)
        """Return the part that belongs to a patch of an image of shape (C, H, W); None: to all of it."""
        (top, bottom, left, right), f = self.inset, self.factor
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

    source: image files, or tensors (C, H, W).  size: side of the patches; None: whole images.
    noise_level: above 0, every image is made noisy once, as it is read, and only that is learned from.
    measured, masks: what belongs to the images.  multiple: crops begin at such rows and columns.
    memory: bytes for images and what is known of them; images that do not fit are read again when they are needed.
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
    memory: float = float("inf")

    @cached_property
    def facts(self) -> np.ndarray:  # (N,) of FACTS
        """What is known of the image files (index.py)."""
        return facts_of([source for source in self.source if isinstance(source, Path)])

    @cached_property
    def _images(self) -> OnDemand[Trio]:
        self._check()
        limit = max(0.0, self.memory - KNOWN * len(self))
        return OnDemand(self._read, self._size, lambda trio: sum(t.nbytes for t in trio if t is not None), limit)

    def image(self, n: int) -> Tensor:  # -> (C, H, W)
        """Return an image, of 8 bits as uint8. Raises ImageError where its file was damaged, removed or changed."""
        return self._images[n][0]

    def reading_ahead(self) -> AbstractContextManager[None]:
        """Read the images of the next steps on threads, for as long as the context lasts."""
        return self._images.reading_ahead(threads())

    def _read(self, n: int) -> Trio:
        measured, mask = (beside and beside.own(n) for beside in (self.measured, self.masks))
        return self._clean(n), measured, mask

    def _clean(self, n: int) -> Tensor:  # -> (C, H, W)
        source = self.source[n]
        if self.noise_level:
            image = source if isinstance(source, Tensor) else read_image(source, self.color)
            noise = torch.randn(image.shape, generator=generator(self.seed, NOISE, n))
            image = compact(image + self.noise_level * noise)
        else:
            image = source if isinstance(source, Tensor) else read_compact(source, self.color)
        if isinstance(source, Path) and not _unchanged(source, self.facts[n]):
            raise ImageError(f"{printable(source)} was changed while it was learned from")
        return image

    def _size(self, n: int) -> int:
        """Bytes that an image, what was measured of it and its mask have at most."""
        if isinstance(self.source[n], Tensor):
            return 0  # it is in memory anyway
        eight_bit = int(self.facts[n]["depth"]) == 8 and not self.noise_level
        others = sum(4 for beside in (self.measured, self.masks) if beside is not None)
        return self.image_shape(n).numel() * ((1 if eight_bit else 4) + others)

    def image_shape(self, n: int) -> torch.Size:
        """Return the shape (C, H, W) of a whole image. Raises ImageError where its file cannot be read."""
        source = self.source[n]
        if isinstance(source, Tensor):
            return source.shape
        if not self.facts[n]["height"]:
            return read_compact(source, self.color).shape  # which says why
        return torch.Size((3 if self.color else 1, int(self.facts[n]["height"]), int(self.facts[n]["width"])))

    def check(self) -> None:
        """Look at every image now, so that a bad one is found before training starts. Raises ImageError that names all
        of them."""
        _ = self._images

    def _check(self) -> None:
        if isinstance(self.source[0], Path):
            facts = self.facts
            doubtful = (facts["height"] == 0) | (facts["depth"] == 0) | ((facts["channels"] < 3) & self.color)
            read_all(np.flatnonzero(doubtful).tolist(), self._clean)  # which says what is wrong
        shapes = (self.image_shape(n) for n in range(len(self)))
        small = next((n for n, shape in enumerate(shapes) if self.size and min(shape[1:]) < self.size), None)
        if small is not None:
            name = printable(self.source[small]) if isinstance(self.source[small], Path) else f"image {small}"
            h, w = self.image_shape(small)[1:]
            raise ImageError(f"{name} is {w} x {h}, smaller than data.patch_size = {self.size}")
        for beside in filter(None, (self.measured, self.masks)):
            read_all(range(len(self)), lambda n, beside=beside: beside.check(n, self.image_shape(n)))

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, step: int, size: int, own: Own | None = None) -> PatchBatch:
        """Return the mini-batch of a step: `size` patches, or those of them at some places. own: which places these
        are among the images of a mini-batch. Raises ImageError where whole images differ in size."""
        images, visits = self._own_places(step, size, own)
        self._images.expect(n for k in range(step, step + AHEAD + 1) for n in self._own_places(k, size, own)[0])
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

    def _own_places(self, step: int, size: int, own: Own | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        images, visits = self.places(step, size)
        if own is None:
            return images, visits
        mine = own(images)
        return tuple(images[p] for p in mine), tuple(visits[p] for p in mine)

    def shape(self, image: int) -> torch.Size:
        """Return the shape (C, H, W) of the patches of an image."""
        whole = self.image_shape(image)
        return torch.Size((whole[0], self.size, self.size)) if self.size else whole

    @cached_property
    def _order(self) -> Callable[[int], Tensor]:
        """The permutation of an epoch; those of the next steps are remembered."""

        @lru_cache(maxsize=AHEAD + 2)
        def order(epoch: int) -> Tensor:
            return torch.randperm(len(self), generator=generator(self.seed, ORDER, epoch))

        return order

    def _patch(self, image: int, visit: int) -> Trio:
        """A clean patch, and what was measured and the mask that belong to it."""
        (clean, measured, mask), draw = self._images[image], generator(self.seed, CROPS, image, visit)
        patch, window, turns, flip = clean, None, 0, False
        if size := self.size:
            m, room = self.multiple, [n - size for n in clean.shape[1:]]
            row, column = (m * int(torch.randint(n // m + 1, (), generator=draw)) for n in room)
            patch, window = clean[:, row : row + size, column : column + size], (row, column, size)
        if self.augment:
            turns, flip = int(torch.randint(4, (), generator=draw)), bool(torch.randint(2, (), generator=draw))

        def turned(patch: Tensor) -> Tensor:
            patch = as_float(patch)
            return torch.rot90(patch.flip(2) if flip else patch, turns, (1, 2)) if self.augment else patch

        def beside(of: Beside | None, own: Tensor | None) -> Tensor | None:
            return None if of is None or own is None else turned(of.cut(own, clean.shape, window))

        return turned(patch), beside(self.measured, measured), beside(self.masks, mask)


def centre_crop(image: Tensor, size: int) -> Tensor:  # (C, H, W) -> (C, min(H, size), min(W, size))
    """Return the middle of an image."""
    h, w = (min(n, size) for n in image.shape[1:])
    row, column = (image.shape[1] - h) // 2, (image.shape[2] - w) // 2
    return image[:, row : row + h, column : column + w]


def whole_blocks(image: Tensor, factor: int) -> Tensor:  # (C, H, W) -> (C, H - H % factor, W - W % factor)
    """Return an image without the last rows and columns that blocks of factor x factor pixels leave over."""
    h, w = (n - n % factor for n in image.shape[1:])
    return image[:, :h, :w]


def _unchanged(path: Path, fact: np.ndarray) -> bool:
    try:
        return unchanged(path, fact)
    except OSError:
        return False
