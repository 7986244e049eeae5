"""The section [problem]: what was measured, y = A x + noise. One dataclass per task, whose fields are what it reads."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from app.scale import level_fault
from app.settings.fields import ConfigError, When, option, shown

USUAL = 25 / 255  # the noise level of papers on denoising; initial weights and smoothings are those at this level
GAUSSIAN = "gaussian:9:1.5"
LARGEST, NARROWEST = 1023, 0.01  # kernels and their widths, in pixels


def blur_name(text: str) -> str:
    """Return the normal form of a kernel's name: gaussian -> gaussian:9:1.5. Raises ConfigError for a bad gaussian."""
    kind, *numbers = text.split(":")
    if kind != "gaussian":
        return text
    with suppress(ValueError):
        size, width = numbers or GAUSSIAN.split(":")[1:]
        if 1 <= int(size) <= LARGEST and int(size) % 2 == 1 and NARROWEST <= float(width) <= LARGEST:
            return f"gaussian:{int(size)}:{float(width):.15g}"
    raise ConfigError(
        f"{shown(text)} must be gaussian:SIZE:WIDTH with an odd SIZE up to {LARGEST} and a WIDTH from {NARROWEST} to "
        f"{LARGEST}, such as {GAUSSIAN}"
    )


def _level(noise_level: float) -> float:
    if fault := level_fault(noise_level):
        raise ConfigError(fault)
    return noise_level


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The keys of all tasks."""

    task: ClassVar[str]
    colours: ClassVar[bool] = True  # whether images may be RGB
    measures_images: ClassVar[bool] = True  # whether measurements are images, as they are
    noise_level: float | tuple[float, float] = option(
        USUAL,
        "standard deviation on the scale [0, 1]; may be written '25/255'. A pair [low, high]: train on all levels "
        "between them, one per mini-batch",
        form=_level,
        at_least=0,
    )
    ridge: float = option(0.0, "weight of ridge/2 ||x||^2, part of the strong convexity", at_least=0)

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and the highest noise level, which training learns from."""
        return self.noise_level if isinstance(self.noise_level, tuple) else (self.noise_level, self.noise_level)

    @property
    def level(self) -> float:
        """The one noise level of an evaluation: of a pair it is 25/255, or the geometric mean where 25/255 is not
        between them."""
        low, high = self.levels
        if low == high:
            return low
        return USUAL if low <= USUAL <= high else (low * high) ** 0.5

    @property
    def enlargement(self) -> int:
        """Rows and columns of the image for each of the measurement's."""
        return 1

    @property
    def learns_kernel(self) -> bool:
        """Whether the blur kernel that reconstructs is learned with the regularizer."""
        return False

    @property
    def pairs(self) -> bool:
        """Whether training may take measurements from files: what measured them is known, and measures images."""
        return self.measures_images


@dataclass(frozen=True, kw_only=True)
class Denoise(Problem):
    """A is the identity."""

    task: ClassVar[str] = "denoise"


def border() -> Any:
    """Return the setting of what an image does behind its border."""
    return option(
        "circular",
        "what an image does behind its border: it goes on at the other side (circular), it is unknown (valid; what was "
        "not seen counts in no loss and no PSNR), or it is mirrored (reflect)",
    )


LEARNED = When("problem.learn_kernel = true", lambda c: c.problem.learns_kernel)


@dataclass(frozen=True, kw_only=True)
class Deblur(Problem):
    """A is a convolution with a kernel that is known, or learned."""

    task: ClassVar[str] = "deblur"
    kernel: str = option(
        GAUSSIAN,
        "gaussian:SIZE:WIDTH (side and standard deviation in pixels) | levin:1 ... levin:8 | levin:all (one of them "
        "per image) | FILE.npz:KEY | FILE.h5:KEY | FILE.mat:KEY | a .npy file | an image file (normalized to sum 1)",
        form=blur_name,
    )
    signed_kernel: bool = option(
        False,
        "the kernel of a file may have negative entries",
        when=When("problem.kernel = FILE", lambda c: not c.problem.kernel.startswith(("gaussian:", "levin:"))),
    )
    border: Literal["circular", "valid", "reflect"] = border()
    learn_kernel: bool = option(
        False, "learn the kernel that reconstructs, with the regularizer; `kernel` still measures"
    )
    hold_kernel: bool = option(
        False, "keep the kernel that training starts from, as one who is sure of a wrong kernel would", when=LEARNED
    )
    learned_kernel_size: int = option(
        9, "side of the learned kernel in pixels", when=LEARNED, at_least=3, at_most=255, odd=True
    )
    initial_kernel_width: float = option(
        1.0,
        "standard deviation of the gaussian that the learned kernel starts from, in pixels",
        when=LEARNED,
        at_least=NARROWEST,
        at_most=LARGEST,
    )

    @property
    def gaussian(self) -> tuple[int, float] | None:
        """Side and standard deviation of the gaussian that measures; None for any other kernel."""
        kind, *numbers = self.kernel.split(":")
        return (int(numbers[0]), float(numbers[1])) if kind == "gaussian" else None

    @property
    def learns_kernel(self) -> bool:
        return self.learn_kernel

    @property
    def pairs(self) -> bool:
        return self.border == "valid" and self.kernel != "levin:all" and not self.learn_kernel


@dataclass(frozen=True, kw_only=True)
class Inpaint(Problem):
    """A keeps random pixels, or those of a mask."""

    task: ClassVar[str] = "inpaint"
    mask: str = option(
        "",
        "which pixels are measured: a black and white image (white: measured), an array FILE[:KEY] (1: measured; "
        "numbers between 0 and 1 are weights), or a folder with one per image, of the same name; empty: random pixels",
    )
    keep: float = option(
        0.5,
        "probability that a pixel is measured",
        when=When("problem.mask = ''", lambda c: not c.problem.mask),
        above=0,
        at_most=1,
    )

    @property
    def pairs(self) -> bool:
        return bool(self.mask)


@dataclass(frozen=True, kw_only=True)
class SuperResolution(Problem):
    """A blurs and keeps every factor-th row and column."""

    task: ClassVar[str] = "superres"
    factor: int = option(2, "how many times more rows and columns than were measured", at_least=2, at_most=64)
    antialias: float = option(
        0.5, "standard deviation of the gaussian blur before pixels are dropped, in coarse pixels", above=0, at_most=4
    )
    border: Literal["circular", "valid", "reflect"] = border()

    @property
    def enlargement(self) -> int:
        return self.factor

    @property
    def pairs(self) -> bool:
        return self.border == "valid"


DRAWN = ("random", "equispaced")  # masks that are drawn for each image
IF_DRAWN = When(f"problem.mask = {', '.join(DRAWN)}", lambda c: c.problem.mask in DRAWN)


@dataclass(frozen=True, kw_only=True)
class Mri(Problem):
    """A keeps some of the frequencies of the image, as each of the coils sees it."""

    task: ClassVar[str] = "mri"
    colours: ClassVar[bool] = False
    measures_images: ClassVar[bool] = False
    mask: str = option(
        "random", "columns of k-space that are measured: random | equispaced (both drawn for each image) | an array "
        "FILE[:KEY], (H, W) or (W,), DC in the middle",
    )  # fmt: skip
    acceleration: float = option(4.0, "one of so many columns is measured", when=IF_DRAWN, at_least=1, at_most=1024)
    centre_fraction: float = option(
        0.08, "part of the columns, in the middle, all of which are measured", when=IF_DRAWN, at_least=0, at_most=1
    )
    image: Literal["real", "complex"] = option(
        "real", "real: known to be real, as a magnitude is; complex: real and imaginary part are unknown, clean images "
        "get a smooth phase that is drawn for each, and quality is that of magnitudes",
    )  # fmt: skip
    coil_maps: str = option(
        "", "sensitivities of the coils, a complex array FILE[:KEY], (coils, H, W); empty: one coil"
    )

    def __post_init__(self) -> None:
        if self.mask in DRAWN and self.acceleration * self.centre_fraction > 1:
            raise ConfigError(
                f"problem.centre_fraction = {self.centre_fraction:g} alone measures more than one of "
                f"problem.acceleration = {self.acceleration:g} columns: lower one of them"
            )


IF_SPACED = When('problem.angle_file = ""', lambda c: not c.problem.angle_file)


@dataclass(frozen=True, kw_only=True)
class Tomography(Problem):
    """A takes sums along parallel rays, divided by the root of the number of directions."""

    task: ClassVar[str] = "tomography"
    colours: ClassVar[bool] = False
    measures_images: ClassVar[bool] = False
    angles: int = option(
        60, "directions of the rays, equally spaced from 0 degrees", when=IF_SPACED, at_least=1, at_most=4096
    )
    angular_range: float = option(
        180.0,
        "degrees that the directions cover; below 180 some edges are never seen",
        when=IF_SPACED,
        above=0,
        at_most=360,
    )
    angle_file: str = option(
        "", "an array FILE[:KEY] of the directions in degrees, instead of angles and angular_range"
    )


TASKS: tuple[type[Problem], ...] = (Denoise, Deblur, Inpaint, SuperResolution, Mri, Tomography)
