"""Simulated measurements of clean images, and their reconstruction, as training, evaluation and figures need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app import assemble
from app.evaluation.guide import LowerProblem, lower_problem
from app.lower.energy import Operator, Solver, bounds
from app.lower.solution import LowerSolution
from app.lower.stationary import certified_or_stationary
from app.models.build import Model
from app.problem.operators import OperatorError, Operators
from app.settings.options import Config
from datasets.blur_kernels import KernelError
from datasets.files import printable
from datasets.images import ImageError, read_all, read_image
from datasets.masks import MaskError
from datasets.patches import whole_blocks
from datasets.random import TEST_NOISE, generator
from regularizers import ImageTooSmallError, Regularizer, for_channels


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Clean images are measured, and what was measured is reconstructed."""

    regularizer: Regularizer
    measuring: Operators
    operators: Callable[[torch.Size, tuple[int, ...]], Operator]  # of h; those that measure, where they are known
    solver: Solver
    accuracy: float  # certified ||x - argmin h||
    noise_level: float
    ridge: float
    seed: int
    device: torch.device
    dtype: torch.dtype

    def read(self, path: Path, color: bool) -> Tensor:  # -> (1, C, H, W)
        """Return a clean image, cut below and on the right to what can be measured."""
        return self.to_device(whole_blocks(read_image(path, color), self.measuring.multiple)[None])

    def measure(self, clean: Tensor, images: tuple[int, ...]) -> Tensor:  # (B, C, H, W) -> (B, ...)
        """Return y = A clean + noise, the noise of image i a function of (seed, i) alone."""
        draws = [generator(self.seed, TEST_NOISE, i) for i in images]
        clean = self.measuring.lifted(self.to_device(clean), images)
        return self.measuring(clean.shape[1:], images).measure(clean, self.noise_level, draws)

    def __call__(
        self, y: Tensor, images: tuple[int, ...], shape: torch.Size | None = None
    ) -> LowerSolution:  # (B, ...) -> x (B, C, H, W)
        """Return the reconstructions: a result depends on nothing but its measurement. shape: (..., H, W) of the image,
        where it is known; None: what y tells of it."""
        return self.problem(y, images, shape).solve(self.solver, self.accuracy)

    def problem(self, y: Tensor, images: tuple[int, ...], shape: torch.Size | None = None) -> LowerProblem:  # (B, ...)
        """Return the lower-level problem; of a regularizer with a guide, the guide's has been solved."""
        shape = self._image_shape(y, shape)
        operator, regularizer = self.operators(shape, images), for_channels(self.regularizer, shape[0])
        return lower_problem(regularizer, operator, self.to_device(y), self.ridge, self.solver)

    def bounds(self, shape: torch.Size, images: tuple[int, ...]) -> tuple[float, float]:
        """Return (mu, L) of h for images of shape (C, H, W)."""
        return bounds(self.operators(shape, images), self.regularizer.frozen(), self.ridge)

    def as_image(
        self, y: Tensor, images: tuple[int, ...], shape: torch.Size | None = None
    ) -> Tensor:  # (B, ...) -> (B, C, H, W)
        """Return what can be shown of the measurements, and what their PSNR is computed from."""
        return self.measuring(self._image_shape(y, shape), images).as_image(y)

    def _image_shape(self, y: Tensor, shape: torch.Size | None) -> torch.Size:
        told = self.measuring.image_shape(y.shape[1:])
        return told if shape is None else torch.Size((told[0], *shape[-2:]))

    def seen_in(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, h, w)
        """Return the part of images that has been measured."""
        return self.measuring.seen_in(x)

    def check_sizes(self) -> Callable[[int, Path, torch.Size], None]:
        """Return what checks that image i, a file of the shape (C, H, W), has room for kernel and filters, and raises
        ImageError where not. It solves for y = 0, of which x = 0 is the solution, unless a smaller image had room."""
        fitting: list[torch.Size] = []

        def check(image: int, path: Path, shape: torch.Size) -> None:
            if 0 in shape:
                raise ImageError(f"{printable(path)} is smaller than a block of {self.measuring.multiple} pixels")
            try:
                black = self.measuring.lifted(self.to_device(torch.zeros(1, *shape)), (image,))
                operator = self.measuring(black.shape[1:], (image,))
                if any(all(a >= b for a, b in zip(shape, other, strict=True)) for other in fitting):
                    return
                self(operator.forward(black), (image,), shape)
            except (ImageTooSmallError, KernelError, MaskError, OperatorError) as error:
                raise ImageError(f"{printable(path)}: {error}") from None
            fitting.append(shape)

        return check

    def check_images(self, paths: Sequence[Path], color: bool) -> list[torch.Size]:
        """Check, before anything long begins, that all images can be read and are large enough, and return their
        shapes (C, H, W). Raises one ImageError that names all that are not."""
        check = self.check_sizes()

        def shape(i: int) -> torch.Size:
            found = self.read(paths[i], color).shape[1:]
            check(i, paths[i], found)
            return found

        return read_all(range(len(paths)), shape)

    def to_device(self, x: Tensor) -> Tensor:  # (B, ...) -> (B, ...)
        """Return a tensor on the device and, where it is real, in the precision of the reconstruction."""
        return x.to(self.device) if x.is_complex() else x.to(self.device, self.dtype)


def simulation(config: Config, model: Model, data_root: Path, images: Mapping[int, Path] | None = None) -> Simulation:
    """Return what measures with the true kernel, and reconstructs with the learned one where problem.learn_kernel is
    on. images: position -> file of what is measured. Raises ConfigError, KernelError and MaskError."""
    measuring, kernel = assemble.operators(config, data_root, images=images), model.kernel
    reconstructing: Callable[[torch.Size, tuple[int, ...]], Operator] = measuring
    if kernel is not None and config.problem.learns_kernel:
        reconstructing = lambda shape, images: kernel.operator(shape[1:])  # noqa: E731
    return Simulation(
        regularizer=model.regularizer, measuring=measuring, operators=reconstructing,
        solver=certified_or_stationary(assemble.lower_solver(config)), accuracy=config.lower.final_accuracy,
        noise_level=config.problem.level, ridge=config.problem.ridge, seed=config.run.seed,
        device=assemble.device_of(config), dtype=assemble.dtype_of(config),
    )  # fmt: skip
