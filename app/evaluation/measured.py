"""Files of what was measured: what must be known of them, where their reconstructions go, and what is said of each."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from pathlib import Path

import numpy as np
from torch import Tensor

from app.evaluation.simulation import Simulation
from app.lower.solution import GIVEN_GUIDE, NOT_CERTIFIED, LowerSolution, norm, rounded_up
from app.models.build import Model
from app.settings.options import Config, ConfigError
from app.settings.tasks import Deblur, Inpaint, Mri, SuperResolution
from app.settings.toml import override
from datasets.arrays import ArrayError, find_array, is_array, read_array
from datasets.files import printable
from datasets.image_sets import find_images, is_named
from datasets.images import ImageError, Picture, as_picture, as_pixels, read_all, read_picture, read_pixels
from datasets.patches import whole_blocks


@dataclass(frozen=True, kw_only=True)
class Source:
    """One measured image: a file, an array of a file, or one slice of an array of several."""

    spec: str  # FILE or FILE:KEY
    path: Path
    slice: int | None = None

    @property
    def name(self) -> str:
        """What its results are called."""
        return self.path.stem + ("" if self.slice is None else f"_{self.slice:03}")

    def __str__(self) -> str:
        return printable(self.path) + ("" if self.slice is None else f", slice {self.slice}")


def sources_of(specs: list[str], data_root: Path, color: bool) -> list[Source]:
    """Find what is measured: image sets, files, and arrays, of which those with one axis more are several images.
    Raises ImageError. An array that cannot be read is found, too: reading it says why."""
    return [source for spec in specs for source in _sources(spec, data_root, color)]


def _sources(spec: str, data_root: Path, color: bool) -> list[Source]:
    array = None
    if not is_named(spec):
        try:
            array, _ = find_array(spec)
        except ArrayError:
            pass  # an image set, or nothing: finding images says which
    if array is None or not is_array(array):
        return [Source(spec=str(p), path=p) for p in find_images(spec, data_root, color).paths]
    try:
        shape = read_array(spec).shape
    except ArrayError:
        return [Source(spec=spec, path=array)]
    several = len(shape) > 2 + (shape[-1] in (1, 2, 3, 4))
    return [Source(spec=spec, path=array, slice=n) for n in (range(shape[0]) if several else [None])]


@dataclass(frozen=True, kw_only=True)
class Files:
    """Measured images, and the folder of what is made of them.

    degrade: they are clean, and measured first.  limits: values of black and white in files of floats.  keep: results
    that are there stay.  form: suffix of results that are not floats. Raises ConfigError where the limits are not in
    order.
    """

    sources: list[Source]
    color: bool
    out: Path
    degrade: bool = False
    limits: tuple[float, float] | None = None
    keep: bool = False
    form: str = ".png"
    array: Callable[[str], np.ndarray] = field(default_factory=lambda: lru_cache(1)(read_array))  # one at a time

    def __post_init__(self) -> None:
        if self.limits and not -inf < self.limits[0] < self.limits[1] < inf:
            raise ConfigError("--range BLACK WHITE must be two numbers in order")

    def picture(self, i: int) -> Picture:
        """Read image i. Raises ImageError."""
        source = self.sources[i]
        if not is_array(source.path):
            picture = read_picture(source.path, self.color, self.limits)
            return replace(picture, suffix=self.form) if picture.suffix == ".png" else picture
        try:
            values = self.array(source.spec)
        except ArrayError as error:
            raise ImageError(str(error)) from None
        pixels = as_pixels(values if source.slice is None else values[source.slice], source.path)
        return as_picture(pixels, source.path, self.color, self.limits)

    def targets(self, simulated: Simulation) -> list[tuple[Path, ...]]:
        """Check every image, and return where its result goes and, where it is degraded, its measurement. Raises
        ImageError, and ConfigError where a file would be lost."""
        check, floats = simulated.check_sizes(), [False]

        def of(i: int) -> tuple[Path, ...]:
            picture, source = self.picture(i), self.sources[i]
            clean = whole_blocks(picture.image, simulated.measuring.multiple)
            shape = clean.shape if self.degrade else simulated.measuring.image_shape(picture.image.shape)
            check(i, source.path, shape)
            floats[0] |= picture.depth == 32
            ends = ("", "_degraded") if self.degrade else ("",)
            return tuple(self.out / f"{source.name}{end}{picture.suffix}" for end in ends)

        found = read_all(range(len(self.sources)), of)
        if self.limits and not floats[0]:
            raise ConfigError("--range is for arrays and float TIFF: 8 and 16 bits have their own black and white")
        self._check_lost(found)
        return found

    def _check_lost(self, found: list[tuple[Path, ...]]) -> None:
        made, inputs = dict[Path, Source](), {source.path.resolve() for source in self.sources}
        for source, target in ((s, target) for s, own in zip(self.sources, found, strict=True) for target in own):
            lost = f"{printable(target)} would be overwritten"
            if target in made:
                both = f"it is made from {made[target]} and from {source}"
                raise ConfigError(f"{lost}, {both}: rename one, or choose another --out for it")
            if os.path.lexists(target) and (not self.keep or target.resolve() in inputs):
                raise ConfigError(f"{lost}: choose another --out, rename the images, or --continue")
            made[target] = source
        read_all(filter(os.path.lexists, made), read_pixels)  # what is kept must be whole


def config_of_files(config: Config, settings: list[str], degrade: bool) -> Config:
    """Return the configuration that reconstructs image files. What lies behind the border of a measured one is unknown,
    unless the user's settings say something else. Raises ConfigError where too much is unknown."""
    problem = config.problem
    if degrade:
        return config
    if isinstance(problem, Inpaint) and not problem.mask:
        raise ConfigError("which pixels of a measured image are missing is not known: name them with --mask FILE")
    if isinstance(problem, Deblur) and problem.kernel == "levin:all":
        raise ConfigError("which kernel blurred a measured image is not known: name it with --kernel, as levin:1")
    if isinstance(problem, Deblur | SuperResolution) and not problem.learns_kernel:
        return override(config, ["problem.border=valid", *settings])
    return config


def summary(solution: LowerSolution, model: Model) -> str:
    """Write the certificate and the cost of one image; of a model with a guide, given the guide's result."""
    cost = f"{int(solution.iterations)} iterations" + ("" if solution.converged else " (accuracy not reached)")
    if solution.error_bound.isinf():
        cost = f"{int(solution.iterations)} iterations ({NOT_CERTIFIED})"
    bound, size = float(solution.error_bound), float(norm(solution.x))
    relative = f" ({rounded_up(100 * bound / size, 2)} % of ||x||)" if 0 < size and bound < inf else ""
    given = f" {GIVEN_GUIDE}" if model.regularizer.guide_at_level() is not None else ""
    return f"||x - argmin h|| <= {rounded_up(bound)}{relative}{given}, {cost}"
