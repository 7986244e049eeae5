"""Files of what was measured: what must be known of them, where their reconstructions go, and what is said of each."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.evaluation import raw as raw_data
from app.evaluation.evaluate import Pair
from app.evaluation.guide import condition_of
from app.evaluation.simulation import Simulation
from app.lower.solution import NOT_CERTIFIED, LowerSolution, norm, rounded_up
from app.models.build import Model
from app.problem.operators import OperatorError
from app.settings.options import Config, ConfigError
from app.settings.tasks import DRAWN, Deblur, Inpaint, Mri, SuperResolution, Tomography
from app.settings.toml import is_set, override
from datasets.arrays import ARRAYS, ArrayError, array_file, is_array, read_array
from datasets.encode import encode_like
from datasets.files import printable
from datasets.image_sets import find_images, is_named
from datasets.images import ImageError, Picture, Range, as_picture, as_pixels, read_all, read_picture, read_pixels
from datasets.masks import MaskError
from datasets.pairs import partners
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


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured of one image, and the files that a reconstruction becomes."""

    y: Tensor  # (1, ...), on the scale of the regularizer
    suffixes: tuple[str, ...]
    encode: Callable[[Tensor], list[bytes]]  # x (1, C, H, W) -> one file for each suffix
    depth: int = 32  # bits of each number
    told: tuple[str, ...] = ()  # what was assumed of it


def sources_of(specs: list[str], data_root: Path, config: Config, degrade: bool = False) -> list[Source]:
    """Find what is measured: image sets, files, and arrays, of which those with one axis more are several images.
    Raises ImageError. An array that cannot be read is found, too: reading it says why."""
    raw = None if degrade or config.problem.measures_images else raw_data.axes(config.problem)
    return [source for spec in specs for source in _sources(spec, data_root, config.data.color, raw)]


def _sources(spec: str, data_root: Path, color: bool, raw: int | None) -> list[Source]:
    array = None
    if not is_named(spec):
        with suppress(ArrayError):  # of an image set, or of nothing: finding images says which
            array = array_file(spec)
    if raw and array is not None and array.is_dir():
        return [s for p in sorted(array.iterdir()) if is_array(p) for s in _sources(str(p), data_root, color, raw)]
    if array is None or not is_array(array):
        return [Source(spec=str(p), path=p) for p in find_images(spec, data_root, color).paths]
    try:
        shape = read_array(spec).shape
    except ArrayError:
        return [Source(spec=spec, path=array)]
    several = len(shape) == raw + 1 if raw else len(shape) > 2 + (shape[-1] in (1, 2, 3, 4))
    return [Source(spec=spec, path=array, slice=n) for n in (range(shape[0]) if several else [None])]


@dataclass(frozen=True, kw_only=True)
class Files:
    """Measured images, and the folder of what is made of them.

    limits: values of black and white in files of floats.  degrade: images are clean, and measured first.  keep: results
    that are there stay.  form: suffix of results that are not floats.  unit: where there are no limits, floats are
    on the scale of images, [0, 1]; else raw measurements are brought to it. Raises ConfigError where the limits are no
    scale.
    """

    sources: list[Source]
    config: Config
    limits: Range | None = None
    out: Path = Path()
    degrade: bool = False
    keep: bool = False
    form: str = ".png"
    unit: bool = False
    array: Callable[[str], np.ndarray] = field(default_factory=lambda: lru_cache(1)(read_array))  # one at a time
    whites: dict[str, float] = field(default_factory=dict)  # of raw measurements, by their spec

    def __post_init__(self) -> None:
        if self.limits and not -inf < self.limits[0] < self.limits[1] < inf:
            raise ConfigError("--range BLACK WHITE must be two numbers in order")
        if self.limits and self.limits[0] and self.raw:
            raise ConfigError("--range BLACK WHITE: BLACK must be 0 where no images were measured")

    @property
    def raw(self) -> bool:
        """Whether files hold measurements that are no images."""
        return not (self.degrade or self.config.problem.measures_images)

    def picture(self, i: int) -> Picture:
        """Read image i. Raises ImageError."""
        source, color = self.sources[i], self.config.data.color
        limits = self.limits or ((0, 1) if self.unit else None)
        if not is_array(source.path):
            picture = read_picture(source.path, color, limits)
            return replace(picture, suffix=self.form) if picture.suffix == ".png" else picture
        values = self._values(source)
        pixels = as_pixels(values if source.slice is None else values[source.slice], source.path)
        return as_picture(pixels, source.path, color, self.limits if pixels.dtype.kind != "f" else limits)

    def measurement(self, i: int, simulated: Simulation) -> Measurement:
        """Read what was measured of image i. Raises ImageError."""
        if not self.raw:
            picture = self.picture(i)
            return Measurement(
                y=simulated.to_device(picture.image[None]), suffixes=(picture.suffix,), depth=picture.depth,
                encode=lambda x: [encode_like(picture, simulated.seen_in(x)[0])],
            )  # fmt: skip
        source = self.sources[i]
        values = self._values(source) if is_array(source.path) else np.zeros(0)
        try:
            return self._raw(source, values, i, simulated)
        except (ImageError, MaskError, OperatorError) as error:
            raise ImageError(f"{printable(source.spec)}: {error}") from None

    def _raw(self, source: Source, values: np.ndarray, i: int, simulated: Simulation) -> Measurement:
        if not is_array(source.path):
            raise ImageError(
                f"it is an image, and {self.config.problem.task} measures none: arrays are {', '.join(ARRAYS)}"
            )
        problem, told = self.config.problem, []

        def of(n: int) -> Tensor:
            one = raw_data.measurement(values, n, problem, self.limits)
            return one.to(simulated.device, simulated.dtype)

        y = of(source.slice or 0)
        _check_shape(y, i, simulated)
        if isinstance(problem, Mri) and raw_data.is_shifted(y):
            told.append("DC seems to be in a corner of k-space; it is taken to be in the middle (numpy.fft.fftshift)")
        white = 1.0 if self.limits is None else self.limits[1]
        if self.limits is None and not self.unit:
            if source.spec not in self.whites:
                slices = map(of, range(raw_data.count(values, problem)))
                self.whites[source.spec] = raw_data.white_of(slices, lambda y, _: simulated.as_image(y, (i,)))
            white = self.whites[source.spec]
            if not source.slice:
                told.append(
                    f"white is {white:.4g}: 0.1 % of the pixels are brighter without a regularizer (--range 0 WHITE)"
                )
        return Measurement(
            y=y / white, suffixes=(self.form, ".npy"), told=tuple(told),
            encode=lambda x: raw_data.encoded(x, white, self.form),
        )  # fmt: skip

    def _values(self, source: Source) -> np.ndarray:
        try:
            return self.array(source.spec)
        except ArrayError as error:
            raise ImageError(str(error)) from None

    def targets(self, simulated: Simulation) -> list[tuple[Path, ...]]:
        """Check every image, and return where its result goes and, where it is degraded, its measurement. Raises
        ImageError, and ConfigError where a file would be lost."""
        check, depths = simulated.check_sizes(), set()

        def of(i: int) -> tuple[Path, ...]:
            source = self.sources[i]
            if self.degrade:
                picture = self.picture(i)
                check(i, source.path, whole_blocks(picture.image, simulated.measuring.multiple).shape)
                depths.add(picture.depth)
                return tuple(self.out / f"{source.name}{end}{picture.suffix}" for end in ("", "_degraded"))
            found = self.measurement(i, simulated)
            check(i, source.path, simulated.measuring.image_shape(found.y.shape[1:]))
            depths.add(found.depth)
            return tuple(self.out / f"{source.name}{suffix}" for suffix in found.suffixes)

        targets = read_all(range(len(self.sources)), of)
        if self.limits and 32 not in depths:
            raise ConfigError("--range is for arrays and float TIFF: 8 and 16 bits have their own black and white")
        self._check_lost(targets)
        return targets

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
        read_all(filter(os.path.lexists, made), self._check_whole)

    def _check_whole(self, target: Path) -> None:
        """Check that a result that is kept was written to its end. Raises ImageError."""
        if not self.raw or target.suffix != ".npy":
            read_pixels(target)
            return
        try:
            read_array(str(target))
        except ArrayError as error:
            raise ImageError(str(error)) from None


def _check_shape(y: Tensor, i: int, simulated: Simulation) -> None:
    """Raise ImageError where the operator measures something of another shape."""
    shape = simulated.measuring.image_shape(y.shape[1:])
    expected = simulated.measuring(shape, (i,)).forward(torch.zeros(1, *shape).to(y)).shape[1:]
    if y.shape[1:] != expected:
        sizes = [" x ".join(map(str, s)) for s in (y.shape[2:], expected[1:])]
        raise ImageError(f"{sizes[0]} numbers do not fit the operator, which measures {sizes[1]}")


def files_of(paths: Sequence[Path], folder: str, config: Config, limits: Range | None) -> Files:
    """Return what was measured of these images, on their scale where there are no limits. Raises ImageError and
    ConfigError."""
    sources = [Source(spec=str(path), path=path) for path in partners(paths, folder)]
    return Files(sources=sources, config=config, limits=limits, unit=True)


def pair(files: Files, simulated: Simulation, i: int, clean: Tensor) -> Pair:  # (1, C, H, W)
    """Return the pair of a clean image and its file. Raises ImageError where they do not belong together: where the
    border is unknown, a clean image may be as large as what was measured, or as its reconstruction."""
    y, path = files.measurement(i, simulated).y, files.sources[i].path
    shape, seen = clean.shape[1:], simulated.seen_in(clean)
    if simulated.measuring.seen is not None and simulated.measuring.image_shape(y.shape[1:]) != shape:
        shape, seen = simulated.measuring.image_shape(y.shape[1:]), clean
    measured = simulated.seen_in(torch.zeros(1, *shape)).shape[2:]
    black = simulated.measuring.lifted(torch.zeros(1, clean.shape[1], *shape[1:]).to(clean), (i,))
    expected = simulated.measuring(black.shape[1:], (i,)).forward(black).shape[1:]
    if y.shape[1:] != expected or seen.shape[2:] != measured:
        sizes = [" x ".join(map(str, size)) for size in (y.shape[2:], clean.shape[2:])]
        raise ImageError(f"{printable(path)} holds {sizes[0]} numbers, which are none of an image of {sizes[1]} pixels")
    return Pair(reconstruct=simulated, y=y, shape=shape, clean=seen)


def config_of_files(config: Config, settings: list[str], degrade: bool) -> Config:
    """Return the configuration that reconstructs image files. What lies behind the border of a measured one is unknown,
    unless the user's settings say something else. Raises ConfigError where too much is unknown."""
    problem = config.problem
    if degrade:
        return config
    if isinstance(problem, Inpaint) and not problem.mask:
        raise ConfigError("which pixels of a measured image are missing is not known: name them with --mask FILE")
    if isinstance(problem, Mri) and problem.mask in DRAWN:
        raise ConfigError("which frequencies were measured is not known: name them with --mask FILE")
    if isinstance(problem, Deblur) and problem.kernel == "levin:all":
        raise ConfigError("which kernel blurred a measured image is not known: name it with --kernel, as levin:1")
    if isinstance(problem, Deblur | SuperResolution) and not problem.learns_kernel:
        return override(config, ["problem.border=valid", *settings])
    return config


def assumed(config: Config, settings: list[str]) -> list[str]:
    """Return what of the operator nobody told, so that it is taken from the model: one line each."""
    match config.problem:
        case Deblur(kernel=kernel) as problem if not problem.learns_kernel and not is_set("problem.kernel", settings):
            return [f"kernel {kernel} of the model is assumed (--kernel)"]
        case SuperResolution(factor=factor, antialias=width) if not is_set("problem.antialias", settings):
            return [f"factor {factor} and antialias {width:g} are assumed (--set problem.antialias)"]
        case Tomography(angle_file="", angles=count, angular_range=arc) if not is_set("problem.angles", settings):
            return [f"{count} angles, equally spaced in {arc:g} degrees, are assumed (--set problem.angle_file)"]
    return []


def summary(solution: LowerSolution, model: Model) -> str:
    """Write the certificate and the cost of one image; of a model with a guide, given what it is conditioned on."""
    cost = f"{int(solution.iterations)} iterations" + ("" if solution.converged else " (accuracy not reached)")
    if solution.error_bound.isinf():
        cost = f"{int(solution.iterations)} iterations ({NOT_CERTIFIED})"
    bound, size = float(solution.error_bound), float(norm(solution.x))
    relative = f" ({rounded_up(100 * bound / size, 2)} % of ||x||)" if size > 0 and bound < inf else ""
    return f"||x - argmin h|| <= {rounded_up(bound)}{relative}{condition_of(model.regularizer)}, {cost}"
