"""Every setting of an experiment: six sections, and what they ask of each other."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from app.settings.families import FAMILIES, LARGEST_FILTER, FoeOptions, IcnnOptions, RegularizerOptions
from app.settings.fields import ConfigError, When, is_read, option, shown
from app.settings.methods import METHODS, IsgdOptions, StochasticOptions, UpperOptions
from app.settings.tasks import TASKS, Deblur, Denoise, Problem


def _denoises(problem: Problem) -> bool:
    return isinstance(problem, Denoise) and not isinstance(problem.noise_level, tuple)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The section [data]: what is learned from."""

    images: str = option("bsds500:train+test", "training images: SET, SET:SPLIT+SPLIT or a folder")
    measured: str = option(
        "",
        "folder of what was measured of the training images, in files of the same names, floats on the scale [0, 1]; "
        "empty: images are measured by the program",
        when=When(
            "problem.task = denoise, inpaint with a mask, deblur with one known kernel or superres, border = valid",
            lambda c: c.problem.pairs,
        ),
    )
    validation: str = option("bsds500:val32", "held-out images")
    color: bool = option(
        False, "RGB instead of grey", when=When("any problem.task but mri, tomography", lambda c: c.problem.colours)
    )
    patch_size: int = option(64, "side of the training patches in pixels", at_least=8, at_most=8192)
    noise: Literal["fresh", "fixed"] = option(
        "fresh", "fresh: new crop, turn and noise at every visit; fixed: one per image (finite sum, warm starts)"
    )
    targets: Literal["clean", "noisy"] = option(
        "clean",
        "what reconstructions are compared with; noisy: each image is made noisy once, and that is all there is",
        when=When(
            "problem.task = denoise at one noise level, without data.measured",
            lambda c: _denoises(c.problem) and not c.data.measured,
        ),
    )
    loss: Literal["squared", "huber", "charbonnier"] = option("squared", "of reconstructions against their targets")
    loss_width: float = option(
        0.1, "errors much larger than this count linearly",
        when=When("data.loss = huber, charbonnier", lambda c: c.data.loss != "squared"), above=0,
    )  # fmt: skip
    count: int = option(0, "use so many of the training images, the same ones for every seed; 0: all", at_least=0)
    augment: bool = option(True, "random flips and quarter turns of the patches")
    memory: int = option(
        0,
        "MB of training images that are kept in memory, the others are read when they are needed; 0: a quarter of what "
        "the machine, container or job has",
        at_least=0,
    )
    validation_crop: int = option(128, "validate on centre crops of this side while training", at_least=16)


@dataclass(frozen=True, kw_only=True)
class Lower:
    """The section [lower]: how argmin h is found."""

    solver: Literal["lbfgs", "agd", "gd_polyak"] = option(
        "lbfgs", "preconditioned L-BFGS, accelerated gradient, or gradient descent with Polyak steps"
    )
    final_accuracy: float = option(0.1, "certified ||x - argmin h|| of validation and evaluation", above=0)
    uncertified: bool = option(
        False,
        "train also where h is not provably strongly convex, on stationary points that nothing certifies",
        when=When(
            "upper.algorithm = isgd with upper.relative_accuracy = 0",
            lambda c: isinstance(c.upper, IsgdOptions) and c.upper.relative_accuracy == 0,
        ),
    )
    max_iterations: int = option(20_000, "gradients after which an image stops uncertified", at_least=1)


VALIDATED = When("run.validate_every above 0", lambda c: c.run.validate_every > 0)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The section [run]: how long, on what, and what is kept."""

    steps: int = option(1500, "upper-level steps", when=When("run.budget = 0", lambda c: c.run.budget == 0), at_least=1)
    budget: float = option(
        0.0,
        "end after so many computations (gradients and Hessian products, summed over images), and validate at every "
        "twentieth of them unless validate_every = 0; 0: end after run.steps",
        at_least=0,
    )
    seed: int = option(0, "of crops, noise, masks and sampling", at_least=0)
    device: str = option("auto", "auto | cpu | cuda | cuda:N; each process of torchrun takes a GPU of its own")
    timeout: float = option(600.0, "seconds that the processes of a run wait for each other (torchrun)", above=0)
    precision: Literal["float32", "float64"] = option("float32", "of all computations")
    validate_every: int = option(250, "steps between validations; 0 only at the end", at_least=0)
    checkpoint_every: int = option(50, "steps between checkpoints", at_least=1)
    average: int = option(
        0, "hand over the running mean of the parameters over about so many steps; 0: the last ones", at_least=0
    )
    keep_best: bool = option(False, "hand over what was best on the held-out images", when=VALIDATED)
    patience: int = option(
        0, "end after so many validations without a better one; 0: never", when=VALIDATED, at_least=0
    )

    @property
    def last_step(self) -> int | None:
        """Upper-level steps after which the run ends; None where its budget ends it."""
        return None if self.budget else self.steps


@dataclass(frozen=True)
class Section:
    """The dataclasses that a section chooses from, and the key that chooses; "" where there is no choice."""

    choices: tuple[type, ...]
    selector: str = ""
    about: str = ""


SECTIONS = {
    "problem": Section(TASKS, "task", "what is to be undone"),
    "data": Section((Data,)),
    "regularizer": Section(
        FAMILIES,
        "name",
        "total variation, field of experts, convex or weakly convex ridge regularizer, or input-convex network",
    ),
    "lower": Section((Lower,)),
    "upper": Section(METHODS, "algorithm", "upper-level method"),
    "run": Section((Run,)),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings. A key that nothing reads has its default. Raises ConfigError for settings that cannot work."""

    problem: Problem = field(default_factory=Denoise)
    data: Data = Data()
    regularizer: RegularizerOptions = field(default_factory=FoeOptions)
    lower: Lower = Lower()
    upper: UpperOptions = field(default_factory=IsgdOptions)
    run: Run = Run()

    def __post_init__(self) -> None:
        for name in SECTIONS:
            options = getattr(self, name)
            for key in fields(options):
                value = getattr(options, key.name)
                if value != key.default and not is_read(key, self):
                    wanted = key.metadata["when"].text
                    raise ConfigError(f"{name}.{key.name} = {shown(value)} is not read here: it is for {wanted}")
        for check in CHECKS:
            check(self)


def settings(config: Config) -> Iterator[tuple[str, str, Any, str]]:
    """Yield (section, key, value, explanation) of every setting that something reads."""
    for name, section in SECTIONS.items():
        options = getattr(config, name)
        if section.selector:
            names = " | ".join(getattr(choice, section.selector) for choice in section.choices)
            yield name, section.selector, getattr(options, section.selector), f"{section.about} ({names})"
        for key in fields(options):
            if is_read(key, config):
                yield name, key.name, vars(options)[key.name], key.metadata["about"]


def _check_smoothing(c: Config) -> None:
    r = c.regularizer
    if r.budgeted and r.smoothing >= r.weight:
        limit = f"weight = {r.weight} for potentials with a weak_convexity"
        raise ConfigError(f"regularizer.smoothing = {r.smoothing} must be below {limit}")
    largest = getattr(r, "largest_curvature", 0.0)
    if r.budgeted and largest and r.smoothing * largest <= r.weight:
        raise ConfigError(
            f"regularizer.largest_curvature = {largest:g} must be above the initial weight / smoothing = "
            f"{r.weight / r.smoothing:g}"
        )
    least = getattr(r, "least_smoothing", 0.0)
    if least >= r.smoothing:
        raise ConfigError(f"regularizer.least_smoothing = {least} must be below the initial smoothing = {r.smoothing}")


def _check_noise_levels(c: Config) -> None:
    if not isinstance(c.problem.noise_level, tuple):
        return
    low, high = c.problem.noise_level
    if not 0 < low < high:
        raise ConfigError(f"problem.noise_level = [{low:g}, {high:g}] must be a level above 0 and a higher one")
    if c.data.measured:
        raise ConfigError("data.measured has one noise level: problem.noise_level must be a number")
    if c.data.noise == "fixed":
        raise ConfigError("a pair problem.noise_level draws new levels for every visit: set data.noise = fresh")


def _check_proof(c: Config) -> None:
    unproven = {
        "icnn": isinstance(c.regularizer, IcnnOptions),
        "regularizer.contrast_channels": c.regularizer.contrasts > 0,
        "regularizer.group_size above 1": getattr(c.regularizer, "group_size", 1) > 1,
    }
    what = next((name for name, holds in unproven.items() if holds), None)
    if what and getattr(c.upper, "relative_error", "estimated") == "proven":
        raise ConfigError(f"upper.relative_error = proven is not for {what}: set it to estimated")


def _check_guide(c: Config) -> None:
    if c.regularizer.contrasts and c.regularizer.learn != "all":
        raise ConfigError(
            f"regularizer.learn = {c.regularizer.learn} is not for regularizer.contrast_channels: what its network "
            "finds belongs to one scale"
        )
    if getattr(c.regularizer, "learn_guide", False) and not getattr(c.upper, "through_guide", False):
        raise ConfigError(
            "regularizer.learn_guide needs upper.through_guide = true, which upper.algorithm = isgd, maid, hoag and "
            "gd_polyak have"
        )


def _check_kernel(c: Config) -> None:
    p = c.problem
    if not isinstance(p, Deblur) or not p.learn_kernel:
        return
    if c.regularizer.contrasts:
        raise ConfigError("problem.learn_kernel is not for regularizer.contrast_channels")
    if p.kernel == "levin:all":
        raise ConfigError("problem.learn_kernel finds one kernel: problem.kernel = levin:all has eight")
    if p.border != "circular":
        raise ConfigError(f"problem.border = {p.border} is not for problem.learn_kernel")
    if p.ridge == 0:
        raise ConfigError("problem.learn_kernel needs a ridge above 0: a learned kernel may lose any frequency")
    for side, most in (("patch_size", c.data.patch_size), ("validation_crop", c.data.validation_crop)):
        if (size := p.learned_kernel_size) > most:
            raise ConfigError(f"problem.learned_kernel_size = {size} must be at most data.{side} = {most}")


def _check_sizes(c: Config) -> None:
    size, factor = c.data.patch_size, c.problem.enlargement
    if size % factor:
        raise ConfigError(f"data.patch_size = {size} must be a multiple of problem.factor = {factor}")
    if (side := c.regularizer.side) > LARGEST_FILTER:
        raise ConfigError(f"[regularizer] filters of {side} x {side} pixels are larger than {LARGEST_FILTER}")


def _check_end(c: Config) -> None:
    if c.run.budget and isinstance(c.upper, StochasticOptions) and c.upper.schedule == "one_cycle":
        raise ConfigError(
            f"upper.schedule = one_cycle needs to know the number of steps, and run.budget = {c.run.budget:g} ends a "
            f"run after any: set upper.schedule = constant, polynomial or logarithmic, or run.budget = 0"
        )


CHECKS = (
    _check_smoothing, _check_noise_levels, _check_proof, _check_guide, _check_kernel, _check_sizes, _check_end,
)  # fmt: skip
