"""Patches to learn from, with what was measured of them in files.

A crop of a denoised or masked image is measured by the same crop. A crop of a blurred image is exactly a measurement of
the larger crop of the clean image that the kernel reaches, whatever is behind the border of the whole: it is learned
from with problem.border = valid.
"""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from app import assemble
from app.memory import memory_for_images
from app.problem.operators import Operators
from app.problem.problem import Problem
from app.settings.options import Config, ConfigError
from app.settings.tasks import Inpaint
from datasets.arrays import ArrayError, is_array, read_array
from datasets.files import printable
from datasets.held_out import images_to_learn_from, refuse_reported
from datasets.image_sets import subset
from datasets.images import ImageError, as_picture, as_pixels, read_picture
from datasets.masks import mask_of, read_mask
from datasets.pairs import partners
from datasets.patches import Beside, Patches

PAIRS = 500  # whose noise is looked at
SAME = 1e-4  # relative difference of A of a turned image and of A x turned, from rounding


def patches_of(config: Config, operators: Operators, data_root: Path) -> Patches:
    """Return the patches that a run learns from. Raises ConfigError, ImageError and MaskError, also for images that
    cannot be used."""
    data, problem = config.data, config.problem
    everything = images_to_learn_from("data.images", data.images, data_root, data.color)
    paths = subset(everything, data.count).paths
    measured = masks = None
    if data.measured:
        files = dict(zip(everything.paths, partners(everything.paths, data.measured, all_of_it=True), strict=True))
        refuse_reported("data.measured", data.measured, list(files.values()))
        factor = problem.enlargement
        measured = Beside(
            source=[files[path] for path in paths], read=lambda path: _read(path, data.color), factor=factor,
            inset=_inset(operators, factor),
        )  # fmt: skip
    if isinstance(problem, Inpaint) and problem.mask:
        own = [Path(mask_of(problem.mask, path)) for path in paths]
        masks = Beside(source=own, read=lru_cache(maxsize=1)(lambda path: read_mask(str(path))[None]))
    patches = Patches(
        source=paths, color=data.color, size=data.patch_size, seed=config.run.seed, fixed=data.noise == "fixed",
        augment=data.augment, noise_level=config.problem.levels[0] if data.targets == "noisy" else 0.0,
        measured=measured, masks=masks, multiple=operators.multiple,
        memory=data.memory * 1e6 or memory_for_images(),
    )  # fmt: skip
    patches.check()
    if measured is not None and masks is None and data.augment and not _turns_with(operators, patches.shape(0), config):
        raise ConfigError(
            "what A measures of a turned image is not what was measured, turned: set data.augment = false"
        )
    return patches


def noise_of_pairs(problem: Problem) -> float | None:
    """Return the root mean square of y - A x over the first patches, None where y is simulated: what the noise of pairs
    is, if they belong together."""
    if problem.patches.measured is None:
        return None
    squares = []
    for step in range(min(len(problem), PAIRS)):
        sample = problem.sample(step, 1)
        squares.append((sample.y - sample.operator.forward(sample.target)).square().flatten())
    return float(torch.cat(squares).mean().sqrt())


def _read(path: Path, color: bool) -> Tensor:  # -> (C, H, W)
    """Read a measured image; floats are on the scale [0, 1]. Raises ImageError."""
    if not is_array(path):
        return read_picture(path, color, (0, 1)).image
    try:
        values = read_array(str(path))
    except ArrayError as error:
        raise ImageError(str(error)) from None
    if values.dtype.kind != "f":
        raise ImageError(f"{printable(path)}: {values.dtype} numbers have no scale; save floats on the scale [0, 1]")
    return as_picture(as_pixels(values, path), path, color, (0, 1)).image


def _inset(operators: Operators, factor: int) -> tuple[int, int, int, int]:
    """What a measurement lacks of an image with an unknown border, in its own rows and columns."""
    if operators.seen is None:
        return 0, 0, 0, 0
    sides = [(side.start // factor, -(side.stop or 0) // factor) for side in operators.seen]
    return *sides[0], *sides[1]


def _turns_with(operators: Operators, shape: torch.Size, config: Config) -> bool:
    """Whether A of a turned or mirrored image is A x, turned or mirrored."""
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    x = x.to(assemble.device_of(config), assemble.dtype_of(config))
    forward = operators(shape, (0,)).forward
    y = forward(x)
    turns = (lambda t: t.flip(3), lambda t: torch.rot90(t, 1, (2, 3)))
    return all(float((forward(turn(x)) - turn(y)).norm()) <= SAME * float(y.norm()) for turn in turns)
