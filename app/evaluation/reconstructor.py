"""One problem and one regularizer: measure clean images, and reconstruct them to a certified accuracy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from app.evaluation.guide import completed
from app.lower.energy import Energy, Functional, Operator, Solver
from app.lower.solution import LowerSolution
from app.problem.operators import OperatorFactory
from datasets.images import read_image
from datasets.patches import whole_blocks
from datasets.random import TEST_NOISE, generator
from regularizers import Regularizer


@dataclass(frozen=True)
class Reconstructor:
    """argmin_x h for one problem and one functional."""

    regularizer: Regularizer
    measuring: OperatorFactory
    operators: Callable[[torch.Size, tuple[int, ...]], Operator]  # of h; those that measure, where they are known
    solve: Solver
    accuracy: float  # certified ||x - argmin h||
    noise_level: float
    ridge: float
    seed: int
    device: torch.device
    dtype: torch.dtype
    enlargement: int = 1  # rows and columns of x for each of y

    def read(self, path: Path, color: bool) -> Tensor:  # -> (1, C, H, W)
        """A clean image, cut below and on the right to what can be measured."""
        return self.to_device(whole_blocks(read_image(path, color), self.enlargement)[None])

    def measure(self, clean: Tensor, images: tuple[int, ...]) -> Tensor:  # (B, C, H, W) -> y
        """y = A clean + noise, the noise of image i a function of (seed, i) alone."""
        draws = [torch.randn(clean.shape[1:], generator=generator(self.seed, TEST_NOISE, i)) for i in images]
        noise = torch.stack(draws).to(self.device, self.dtype)
        return self.measuring(clean.shape[1:], images).measure(self.to_device(clean), self.noise_level * noise)

    def energy(self, y: Tensor, images: tuple[int, ...]) -> Energy:
        return self._energy(y, images)[0]

    def __call__(self, y: Tensor, images: tuple[int, ...]) -> LowerSolution:
        """Started from A^T y or what a guide made of it, so that a result depends on nothing but its measurement."""
        energy, first = self._energy(y, images)
        solution = self.solve(energy, energy.start, self.accuracy)
        if first is None:
            return solution
        return replace(
            solution,
            converged=first.converged & solution.converged,
            iterations=first.iterations + solution.iterations,
        )

    def _energy(self, y: Tensor, images: tuple[int, ...]) -> tuple[Energy, LowerSolution | None]:
        """And what a guide found."""
        channels, h, w = y.shape[1:]
        shape = torch.Size((channels, self.enlargement * h, self.enlargement * w))
        operator, y = self.operators(shape, images), self.to_device(y)

        def energy_with(functional: Functional) -> Energy:
            return Energy(operator, functional, y, self.ridge)

        regularizer, first = completed(self.regularizer, energy_with, self.solve)
        energy = energy_with(regularizer.frozen())
        return (energy, None) if first is None else (replace(energy, guess=first.x), first)

    def comparable(self, y: Tensor) -> Tensor:  # y -> (B, C, H, W)
        """What the PSNR of a measurement is computed from: itself, or its bicubic enlargement to the image's size."""
        if self.enlargement == 1:
            return y
        return F.interpolate(y, scale_factor=self.enlargement, mode="bicubic")

    def shown(self, y: Tensor) -> Tensor:  # y -> (B, C, H, W)
        """Every measured pixel as the block it stands for."""
        return y.repeat_interleave(self.enlargement, 2).repeat_interleave(self.enlargement, 3)

    def to_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)
