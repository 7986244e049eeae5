"""Training patches: which images at which step, which crop of each, and its noise."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from datasets.image_sets import ImageSet
from datasets.images import ImageError, read_image
from datasets.random import CROPS, NOISE, ORDER, generator


@dataclass(frozen=True)
class PatchBatch:
    images: tuple[int, ...]  # positions in the image set
    visits: tuple[int, ...]  # how often each was seen before; always 0 in the finite-sum setting
    clean: Tensor  # (B, C, p, p)
    noise: Tensor  # (B, C, p, p), standard normal


@dataclass(frozen=True)
class Patches:
    """Batches as a pure function of the step: nothing to save, and any step can be drawn again.

    Images are visited without replacement: step k takes places k B ... k B + B - 1 of one random permutation after
    another. `fixed` is the finite-sum setting: one crop and one noise per image, whatever the visit.
    """

    image_set: ImageSet
    color: bool
    size: int
    seed: int
    fixed: bool
    augment: bool

    @cached_property
    def _cleans(self) -> list[Tensor]:
        """All images, 8-bit ones kept as such: 500 colour photographs are 230 MB."""
        images = []
        for path in self.image_set.paths:
            image = read_image(path, self.color)
            if min(image.shape[1:]) < self.size:
                h, w = image.shape[1:]
                raise ImageError(f"{path} is {w} x {h}, smaller than data.patch_size = {self.size}")
            eight_bit = (image * 255).round().to(torch.uint8)
            images.append(eight_bit if torch.equal(_as_float(eight_bit), image) else image)
        return images

    def load(self) -> None:
        """Read every image now, so that a bad one is found before training starts. Raises ImageError."""
        _ = self._cleans

    def __len__(self) -> int:
        return len(self.image_set.paths)

    def batch(self, step: int, size: int) -> PatchBatch:
        """The mini-batch of a step: `size` patches."""
        places = range(step * size, (step + 1) * size)
        orders = {e: self._order(e) for e in {p // len(self) for p in places}}
        images = tuple(int(orders[p // len(self)][p % len(self)]) for p in places)
        visits = tuple(0 if self.fixed else p // len(self) for p in places)
        pairs = [self._patch(i, v) for i, v in zip(images, visits, strict=True)]
        return PatchBatch(images, visits, torch.stack([c for c, _ in pairs]), torch.stack([n for _, n in pairs]))

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self), generator=generator(self.seed, ORDER, epoch))

    def _patch(self, image: int, visit: int) -> tuple[Tensor, Tensor]:
        clean, draw = self._cleans[image], generator(self.seed, CROPS, image, visit)
        row, column = (int(torch.randint(n - self.size + 1, (), generator=draw)) for n in clean.shape[1:])
        patch = _as_float(clean[:, row : row + self.size, column : column + self.size])
        if self.augment:
            turns, flip = int(torch.randint(4, (), generator=draw)), bool(torch.randint(2, (), generator=draw))
            patch = torch.rot90(patch.flip(2) if flip else patch, turns, (1, 2))
        return patch, torch.randn(patch.shape, generator=generator(self.seed, NOISE, image, visit))


def centre_crop(image: Tensor, size: int) -> Tensor:  # (C, H, W) -> (C, min(H, size), min(W, size))
    h, w = (min(n, size) for n in image.shape[1:])
    row, column = (image.shape[1] - h) // 2, (image.shape[2] - w) // 2
    return image[:, row : row + h, column : column + w]


def whole_blocks(image: Tensor, factor: int) -> Tensor:  # (C, H, W) -> (C, H - H % factor, W - W % factor)
    """Without the last rows and columns that blocks of factor x factor pixels leave over."""
    h, w = (n - n % factor for n in image.shape[1:])
    return image[:, :h, :w]


def _as_float(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image
