"""Files of measured images: what must be known of them, where their reconstructions go, and what is said of each."""

import os
from dataclasses import dataclass
from math import inf
from pathlib import Path

from app.evaluation.simulation import Simulation
from app.lower.solution import GIVEN_GUIDE, NOT_CERTIFIED, LowerSolution, rounded_up
from app.settings.options import Config, ConfigError
from app.settings.tasks import Deblur, Inpaint, Mri, SuperResolution
from app.settings.toml import override
from datasets.files import printable
from datasets.images import read_all, read_picture, read_pixels
from datasets.patches import whole_blocks


@dataclass(frozen=True, kw_only=True)
class Files:
    """Image files, and the folder of what is made of them.

    degrade: they are clean, and measured first.  limits: values of black and white in files of floats.  keep: results
    that are there stay. Raises ConfigError where the limits are not in order.
    """

    paths: list[Path]
    color: bool
    out: Path
    degrade: bool = False
    limits: tuple[float, float] | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if self.limits and not -inf < self.limits[0] < self.limits[1] < inf:
            raise ConfigError("--range BLACK WHITE must be two numbers in order")

    def targets(self, simulated: Simulation) -> list[tuple[Path, ...]]:
        """Check every image, and return where its result goes and, where it is degraded, its measurement. Raises
        ImageError, and ConfigError where a file would be lost."""
        check = simulated.check_sizes()

        def of(i: int) -> tuple[Path, ...]:
            picture = read_picture(self.paths[i], self.color, self.limits)
            clean = whole_blocks(picture.image, simulated.measuring.multiple)
            shape = clean.shape if self.degrade else simulated.measuring.image_shape(picture.image.shape)
            check(i, self.paths[i], shape)
            ends = ("", "_degraded") if self.degrade else ("",)
            return tuple(self.out / f"{self.paths[i].stem}{end}{picture.suffix}" for end in ends)

        found = read_all(range(len(self.paths)), of)
        if self.limits and all(own[0].suffix == ".png" for own in found):
            raise ConfigError("--range is for .npy files and float TIFF: 8 and 16 bits have their own black and white")
        self._check_lost(found)
        return found

    def _check_lost(self, found: list[tuple[Path, ...]]) -> None:
        source, inputs = dict[Path, Path](), {path.resolve() for path in self.paths}
        for path, target in ((path, target) for path, own in zip(self.paths, found, strict=True) for target in own):
            lost = f"{printable(target)} would be overwritten"
            if target in source:
                both = f"it is made from {printable(source[target])} and from {printable(path)}"
                raise ConfigError(f"{lost}, {both}: rename one, or choose another --out for it")
            if os.path.lexists(target) and (not self.keep or target.resolve() in inputs):
                raise ConfigError(f"{lost}: choose another --out, rename the images, or --continue")
            source[target] = path
        read_all(filter(os.path.lexists, source), read_pixels)  # what is kept must be whole


def config_of_files(config: Config, settings: list[str], degrade: bool) -> Config:
    """Return the configuration that reconstructs image files. What lies behind the border of a measured one is unknown,
    unless the user's settings say something else. Raises ConfigError where too much is unknown."""
    problem = config.problem
    if degrade:
        return config
    if isinstance(problem, Inpaint):
        raise ConfigError("which pixels of a measured image are missing is not known: inpainting needs --degrade")
    if isinstance(problem, Mri):
        raise ConfigError("MRI measures frequencies, and a file of an image holds none: MRI needs --degrade")
    if isinstance(problem, Deblur) and problem.kernel == "levin:all":
        raise ConfigError("which kernel blurred a measured image is not known: name it with --kernel, as levin:1")
    if isinstance(problem, Deblur | SuperResolution) and not problem.learns_kernel:
        return override(config, ["problem.border=valid", *settings])
    return config


def summary(solution: LowerSolution, guided: bool) -> str:
    """Write the certificate and the cost of one image. guided: what is certified holds given the guide's result."""
    cost = f"{int(solution.iterations)} iterations" + ("" if solution.converged else " (accuracy not reached)")
    if solution.error_bound.isinf():
        cost = f"{int(solution.iterations)} iterations ({NOT_CERTIFIED})"
    given = f" {GIVEN_GUIDE}" if guided else ""
    return f"||x - argmin h|| <= {rounded_up(float(solution.error_bound))}{given}, {cost}"
