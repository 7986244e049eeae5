"""Training patches: which images at which step, and which crop of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from datasets.files import printable
from datasets.images import ImageError, read_all, read_image
from datasets.random import CROPS, NOISE, ORDER, generator


@dataclass(frozen=True, kw_only=True)
class PatchBatch:
    """The patches of one step."""

    images: tuple[int, ...]  # positions in the image set
    visits: tuple[int, ...]  # how often each was seen before; always 0 in the finite-sum setting
    clean: Tensor  # (B, C, p, p)


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Batches as a pure function of the step: nothing to save, and any step can be drawn again.

    Images are visited without replacement: step k takes places k B ... k B + B - 1 of one random permutation after
    another. `fixed` is the finite-sum setting: one crop (and one noise) per image, whatever the visit.

    source: image files, read at first use, or tensors (C, H, W).  size: side of the patches; None: whole images.
    noise_level: above 0, every image is made noisy once, as it is read, and only that is learned from.
    """

    source: Sequence[Path] | Sequence[Tensor]
    color: bool = False
    size: int | None = None
    seed: int = 0
    fixed: bool = True
    augment: bool = False
    noise_level: float = 0.0

    @cached_property
    def images(self) -> list[Tensor]:
        """All images (C, H, W), 8-bit ones kept as such: 500 colour photographs are 230 MB. Raises ImageError."""
        images = read_all(enumerate(self.source), self._image)
        for n, (source, image) in enumerate(zip(self.source, images, strict=True)):
            if self.size and min(image.shape[1:]) < self.size:
                h, w = image.shape[1:]
                name = f"image {n}" if isinstance(source, Tensor) else printable(source)
                raise ImageError(f"{name} is {w} x {h}, smaller than data.patch_size = {self.size}")
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
        clean = [self._patch(i, v) for i, v in zip(images, visits, strict=True)]
        if len({patch.shape for patch in clean}) > 1:
            raise ImageError("the images of a batch differ in size: choose a patch size, or batches of one image")
        return PatchBatch(images=images, visits=visits, clean=torch.stack(clean))

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

    def _patch(self, image: int, visit: int) -> Tensor:
        clean, draw = self.images[image], generator(self.seed, CROPS, image, visit)
        size = self.size
        if size:
            row, column = (int(torch.randint(n - size + 1, (), generator=draw)) for n in clean.shape[1:])
            clean = clean[:, row : row + size, column : column + size]
        patch = _as_float(clean)
        if self.augment:
            turns, flip = int(torch.randint(4, (), generator=draw)), bool(torch.randint(2, (), generator=draw))
            patch = torch.rot90(patch.flip(2) if flip else patch, turns, (1, 2))
        return patch


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
