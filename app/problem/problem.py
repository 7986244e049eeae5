"""The problem that is learned from: clean images, the operators that measure them, their noise, and the loss.

    upper level   min over theta   mean_i  loss(x_i(theta), clean_i)
    lower level   x_i(theta) = argmin_x  1/2 ||A_i x - y_i||^2 + R_theta(x) + ridge/2 ||x||^2
    measured      y_i = A_i clean_i + noise

Learning from noisy images alone (denoising): each image exists once, as y = clean + sigma n, and is recorrupted,

    y+ = y + alpha sigma w,    y- = y - sigma w / alpha,    w standard normal,

whose noises are independent: x(y+) is compared with y- in place of the clean image (recorrupted-to-recorrupted, Pang,
Zheng, Quan, Ji, CVPR 2021), and the mean of the squared error differs from that against the clean image by a constant.
The variance of y+ is s^2 = 1 + alpha^2 times that of y. If h is a negative log-posterior, so is the weight of R: with
1/2 ||x - y+||^2 / s^2 as its data term, what is learned is R for y itself, not for the stronger noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

import torch
from deepinv.physics import Denoising, LinearPhysics
from deepinv.utils import TensorList
from torch import Tensor

from app.memory import memory_for_images
from app.problem.losses import LOSSES, LossOf, SquaredError
from app.problem.noise_levels import NoiseLevels
from app.problem.operators import IdentityOperator, Operator, Operators, noise_level_of, operators_of
from app.problem.stacked import in_a_row
from app.problem.tasks import inpainting_operator
from app.scale import FAR, brightness_fault, level_fault
from datasets.files import default_data_root
from datasets.held_out import images_to_learn_from
from datasets.patches import Own, PatchBatch, Patches
from datasets.random import NOISE, RECORRUPTION, generator

ALPHA = 0.5  # of the recorruption
SCALE = (1 + ALPHA**2) ** -0.5  # 1 / s


Measured = Tensor | Sequence[Tensor] | TensorList  # y of every image (N, ...); of stacked physics, one tensor of each


class ProblemError(ValueError):
    """Images, measurements or noise of a problem do not fit each other; the message says how."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Lower-level problems of one step, before there is a regularizer."""

    images: tuple[int, ...]  # positions in the image set
    target: Tensor  # (B, C, H, W), clean images, or what stands for them
    y: Tensor  # (B, ...)
    operator: Operator
    noise_level: float
    loss: SquaredError
    tolerance_factor: float  # of the accuracy, where batches differ in their noise level


class Problem:
    """Clean images with what measures them.

    physics: a linear deepinv physics, one for each image, or `Operators`.
    clean: images (N, C, H, W), or a sequence of images (C, H, W), a folder or an image set such as
        "bsds500:train" (read in grey, from $APP_DATA_ROOT or ./data), or `Patches`, in [0, 1], with what was measured
        of them where it is known.
    noise_level: standard deviation, or a pair (low, high) to learn all levels between; None: that of the physics.
    ridge: weight of ridge/2 ||x||^2, part of the strong convexity.
    loss: (target, weight) -> loss, or its name; see losses.py.
    measurements: y of every image, where they are known; else they are simulated, the noise a function of
        (seed, image).
    noisy: the images are noisy ones, at this noise level, and all that there is (denoising only).
    patch_size: learn from crops of this side; None: from whole images.  seed: of crops and noise.

    Images, measurements and their settings belong together, hence the many parameters. Raises ProblemError,
    OperatorError or ImageError.
    """

    def __init__(
        self, physics: LinearPhysics | Sequence[LinearPhysics] | Operators, *,
        clean: Tensor | Sequence[Tensor] | str | Path | Patches,
        noise_level: float | tuple[float, float] | NoiseLevels | None = None, ridge: float = 0.0,
        loss: LossOf | str = SquaredError, measurements: Measured | None = None, noisy: bool = False,
        patch_size: int | None = None, seed: int = 0, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.device, self.dtype, self.seed = torch.device(device), dtype, seed
        self.ridge, self.loss, self.noisy = ridge, _loss_of(loss), noisy
        self.operators = physics if isinstance(physics, Operators) else operators_of(physics, dtype, str(device))
        self.patches = clean if isinstance(clean, Patches) else _patches(clean, patch_size, seed)
        self.noise_levels = _noise_levels(noise_level, physics, seed)
        self._check_level()
        measurements = in_a_row(measurements) if isinstance(measurements, TensorList) else measurements
        self.measurements = measurements
        if noisy and not isinstance(physics, Operators | Denoising):
            raise ProblemError("learning from noisy images alone is for denoising: the physics must be Denoising")
        if noisy and self.noise_levels.high == 0:
            raise ProblemError("learning from noisy images alone needs their noise level: noise_level must be above 0")
        if not ridge >= 0:
            raise ProblemError(f"ridge = {ridge:g} must be at least 0")
        if measurements is not None and (len(measurements) != len(self.patches) or patch_size):
            raise ProblemError(
                f"{len(measurements)} measurements for {len(self.patches)} images: each whole image must have one"
            )

    def _check_level(self) -> None:
        """Refuse noise that is stronger than white. ||A x|| <= ||A|| ||x||, so the white of y is at most ||A||."""
        level = self.noise_levels.high
        if level > 1 and (fault := level_fault(level, max(1.0, self.operator(0, 1).norm_squared ** 0.5))):
            raise ProblemError(f"noise_level = {fault}")

    def __len__(self) -> int:
        return len(self.patches)

    def sample(self, step: int, size: int | None = None, own: Own | None = None) -> Sample:
        """Return the mini-batch of a step: `size` images, all where None; or what is at some places of it alone, which
        `own` finds among its images. Raises ProblemError or OperatorError."""
        patches = self.patches.batch(step, size or len(self), own)
        level = self.noise_levels.at(step)
        clean = self.operators.lifted(patches.clean.to(self.device, self.dtype), patches.images)
        operator = self._operator(clean.shape[1:], patches)
        keys = list(zip(patches.images, patches.visits, strict=True))
        if self.noisy:
            y, target, operator = self._recorrupted(clean, level, keys)
        else:
            y, target = self._measured(clean, level, operator, keys, patches.measured), clean
        loss = self.loss(target, self.noise_levels.weight(level))
        if self.operators.seen is not None:
            seen = torch.zeros_like(target[0, 0])
            self.operators.seen_in(seen).fill_(1)
            loss = replace(loss, seen=seen)
        return Sample(
            images=patches.images, target=target, y=y, operator=operator, noise_level=level, loss=loss,
            tolerance_factor=self.noise_levels.relative(level),
        )  # fmt: skip

    def operator(self, step: int = 0, size: int | None = None) -> Operator:
        """Return the operator of a mini-batch, without measuring anything."""
        images, _ = self.patches.places(step, size or len(self))
        shape = self.patches.shape(images[0])
        if (masks := self.patches.masks) is not None:
            operator = self._operator(shape, self.patches.batch(step, size or len(self)))
            return replace(operator, lambda_min=masks.least**2)
        return self._softened(shape) if self.noisy else self.operators(shape, images)

    def _operator(self, shape: torch.Size, patches: PatchBatch) -> Operator:
        """The operator of patches, with their parts of the masks where there are masks."""
        if patches.masks is None:
            return self.operators(shape, patches.images)
        return inpainting_operator(patches.masks.to(self.device, self.dtype), shape)

    def _softened(self, shape: torch.Size) -> IdentityOperator:
        """I / s, the data term of recorrupted images."""
        return IdentityOperator(physics=Denoising(device=self.device), image_shape=shape, scale=SCALE)

    def _measured(
        self, clean: Tensor, level: float, operator: Operator, keys: list[tuple[int, int]], y: Tensor | None
    ) -> Tensor:  # clean (B, C, H, W) -> y
        if self.measurements is not None:
            y = torch.stack([torch.as_tensor(self.measurements[i]) for i, _ in keys])
        if y is None:
            return operator.measure(clean, level, [generator(self.seed, NOISE, i, visit) for i, visit in keys])
        y = y.to(self.device, self.dtype.to_complex() if y.is_complex() else self.dtype)
        if y.shape != (expected := operator.forward(clean)).shape:
            raise ProblemError(f"measurements of shape {tuple(y.shape[1:])}, but A x has {tuple(expected.shape[1:])}")
        return y

    def _recorrupted(
        self, y: Tensor, level: float, keys: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Operator]:  # y (B, C, H, W) -> y+ / s, y-, I / s
        draws = [torch.randn(y.shape[1:], generator=generator(self.seed, RECORRUPTION, i, visit)) for i, visit in keys]
        w = torch.stack(draws).to(y)
        return SCALE * (y + ALPHA * level * w), y - level / ALPHA * w, self._softened(y.shape[1:])


def _patches(clean: Tensor | Sequence[Tensor] | str | Path, size: int | None, seed: int) -> Patches:
    """Images of the user as patches. Raises ProblemError where a tensor is no image."""
    if isinstance(clean, str | Path):
        return Patches(
            source=images_to_learn_from("clean", str(clean), default_data_root(), False).paths,
            size=size,
            seed=seed,
            memory=memory_for_images(),
        )
    images = list(clean)
    for n, image in enumerate(images):
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point() or 0 in image.shape:
            raise ProblemError(f"image {n} must be a float tensor (C, H, W), in a batch (N, C, H, W)")
        if not bool(image.isfinite().all()):
            raise ProblemError(f"image {n} holds NaN or infinite values")
    if not images:
        raise ProblemError("there are no images")
    if (brightest := max(float(image.amax()) for image in images)) > FAR:  # an image may be dark
        warnings.warn(f"images are on the scale [0, 1], and here {brightness_fault(brightest)}", stacklevel=3)
    return Patches(source=images, size=size, seed=seed)


def _loss_of(loss: LossOf | str) -> LossOf:
    found = LOSSES.get(loss) if isinstance(loss, str) else loss
    if not callable(found):
        raise ProblemError(f"loss = {loss!r} must be one of {', '.join(LOSSES)}, or (target, weight) -> loss")
    return found


def _noise_levels(level: float | tuple[float, float] | NoiseLevels | None, physics: object, seed: int) -> NoiseLevels:
    if isinstance(level, NoiseLevels):
        return level
    if level is None:
        found = set(map(noise_level_of, physics if isinstance(physics, Sequence) else (physics,)))
        if len(found) > 1:
            raise ProblemError(f"the physics have {len(found)} noise levels, and noise_level must be one")
        level = found.pop()
    try:
        low, high = map(float, level if isinstance(level, tuple | list) else (level, level))
    except (TypeError, ValueError):  # a text such as "25/255", or three numbers
        low, high = nan, nan
    if not 0 <= low <= high < float("inf") or low == 0 < high:
        raise ProblemError(f"noise_level = {level!r} must be a number >= 0, or a pair of numbers > 0 in order")
    return NoiseLevels(low, high, seed)
