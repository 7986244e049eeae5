"""A mini-batch that several processes work on: each has some of its images, and all of its numbers.

    mean over the batch = sum_r (B_r / B) (mean over the B_r images of rank r),    B = sum_r B_r,

added in the order of the ranks. So all ranks hold the same gradient, take the same decisions, and keep the same theta,
bit by bit. Whatever belongs to an image (x, q, an error bound) stays with the rank that has the image, until it is
gathered for a decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from app.processes import ALONE, Processes
from app.upper.theta import Theta


@dataclass(frozen=True)
class Share:
    """Which places of a mini-batch each rank has. Where there is one process, it has them all."""

    places: tuple[tuple[int, ...], ...] = ()
    processes: Processes = ALONE

    @property
    def own(self) -> tuple[int, ...]:
        """The places of this rank."""
        return self.places[self.processes.rank]

    def among_own(self, places: list[int]) -> list[int]:
        """Return where those of these places of the batch that this rank has are among its own images."""
        if self.processes.count == 1:
            return places
        return [self.own.index(p) for p in places if p in self.own]

    def gather(self, values: Tensor) -> Tensor:  # (b,) -> (B,)
        """Return one number of each image of the batch, in its order, from those of this rank's images."""
        if self.processes.count == 1:
            return values
        longest = max(map(len, self.places))
        padded = torch.zeros(longest, dtype=torch.float64)
        padded[: len(values)] = values.cpu()
        found = torch.zeros(sum(map(len, self.places)), dtype=torch.float64)
        for places, part in zip(self.places, self.processes.exchange(padded), strict=True):
            found[list(places)] = part[: len(places)]
        return found.to(values)

    def mean(self, own: Theta) -> Theta:
        """Return the mean over the batch from that over this rank's images, one tensor per parameter."""
        if self.processes.count == 1:
            return own
        weight = len(self.own) / sum(map(len, self.places))
        flat = torch.cat([weight * g.flatten() if self.own else torch.zeros_like(g).flatten() for g in own])
        total = reduce(torch.add, self.processes.exchange(flat))
        parts = total.split([g.numel() for g in own])
        return tuple(part.view_as(g).to(g) for part, g in zip(parts, own, strict=True))

    def count(self, own: int) -> int:
        """Return the sum of a number of all ranks."""
        return int(sum(self.processes.numbers(own)))

    def take(self, places: list[int]) -> Share:
        """Return the share of these places of the batch: who has an image keeps it."""
        if self.processes.count == 1:
            return self
        return Share(tuple(tuple(n for n, p in enumerate(places) if p in own) for own in self.places), self.processes)


def shared(images: tuple[int, ...], processes: Processes) -> Share:
    """Return the share of a mini-batch of these images: each rank has as many as any other, up to one, and the images
    that come next to each other in their set. So an image is nearly always with the same rank, and what is remembered
    of it, too, whatever came before this batch."""
    order = sorted(range(len(images)), key=lambda place: images[place])
    ends = [len(images) * r // processes.count for r in range(processes.count + 1)]
    runs = [order[a:b] for a, b in pairwise(ends)]
    return Share(tuple(tuple(sorted(run)) for run in runs), processes)


def own_places(images: tuple[int, ...], processes: Processes) -> tuple[int, ...]:
    """Return the places that this process has in a mini-batch of these images."""
    return shared(images, processes).own


def home(image: int, count: int, processes: Processes) -> int:
    """Return the rank where image number `image` of `count` most often is: what a checkpoint remembers goes there."""
    return image * processes.count // count
