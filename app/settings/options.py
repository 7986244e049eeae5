"""Every setting of an experiment, with its default, its meaning and its limits."""

from dataclasses import dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """A key, value or file of a configuration is wrong; the message names it and what is allowed."""


def _option(default: Any, about: str, *, odd: bool = False, **limits: float) -> Any:
    """A field with its explanation and the limits (above, at_least, below, at_most) of its value."""
    named = {name.replace("_", " "): limit for name, limit in limits.items()}
    return field(default=default, metadata={"about": about, "limits": named, "odd": odd})


@dataclass(frozen=True)
class Problem:
    task: Literal["denoise", "deblur", "inpaint", "superres"] = _option("denoise", "what is to be undone")
    noise_level: float = _option(
        25 / 255, "standard deviation on the scale [0, 1]; may be written '25/255'", at_least=0
    )
    noise_low: float = _option(
        0.0, "train on noise levels from this one to noise_high, one per mini-batch; 0: at noise_level", at_least=0
    )
    noise_high: float = _option(0.0, "train: the highest noise level; 0: at noise_level", at_least=0)
    kernel: str = _option(
        "gaussian",
        "deblur: gaussian | levin:1 ... levin:8 | levin:all (one of them per image) | FILE.npz:KEY | an image file "
        "(normalized to sum 1)",
    )
    kernel_size: int = _option(9, "deblur: side of the gaussian kernel in pixels", at_least=1, odd=True)
    kernel_width: float = _option(1.5, "deblur: standard deviation of the gaussian kernel in pixels", above=0)
    learn_kernel: bool = _option(
        False, "deblur: learn the kernel that reconstructs, with the regularizer; `kernel` still measures"
    )
    hold_kernel: bool = _option(False, "learn_kernel: but keep the start, as one who is sure of a wrong kernel would")
    learned_kernel_size: int = _option(9, "learn_kernel: side of the learned kernel in pixels", at_least=3, odd=True)
    initial_kernel_width: float = _option(
        1.0, "learn_kernel: standard deviation of the gaussian it starts from, in pixels", above=0
    )
    keep: float = _option(0.5, "inpaint: probability that a pixel is measured", above=0, at_most=1)
    factor: int = _option(2, "superres: how many times more rows and columns than were measured", at_least=2)
    antialias: float = _option(
        0.5, "superres: standard deviation of the gaussian blur before pixels are dropped, in coarse pixels", above=0
    )
    ridge: float = _option(0.0, "weight of ridge/2 ||x||^2, part of the strong convexity", at_least=0)

    @property
    def enlargement(self) -> int:
        """Rows and columns of the image for each of the measurement's."""
        return self.factor if self.task == "superres" else 1


@dataclass(frozen=True)
class Data:
    images: str = _option("bsds500:train+test", "training images: SET, SET:SPLIT+SPLIT or a folder")
    validation: str = _option("bsds500:val32", "held-out images")
    color: bool = _option(False, "RGB instead of grey")
    patch_size: int = _option(64, "side of the training patches in pixels", at_least=8)
    noise: Literal["fresh", "fixed"] = _option(
        "fresh",
        "fresh: new crop, turn and noise at every visit; fixed: one per image (finite sum, warm starts)",
    )
    targets: Literal["clean", "noisy"] = _option(
        "clean", "noisy: denoise; each image is made noisy once, and nothing else is learned from"
    )
    loss: Literal["squared", "huber", "charbonnier"] = _option("squared", "of reconstructions against their targets")
    loss_width: float = _option(0.1, "huber, charbonnier: larger errors count linearly", above=0)
    count: int = _option(0, "use so many of the training images, the same ones for every seed; 0: all", at_least=0)
    augment: bool = _option(True, "random flips and quarter turns of the patches")
    validation_crop: int = _option(128, "validate on centre crops of this side while training", at_least=16)


@dataclass(frozen=True)
class RegularizerOptions:
    name: Literal["tv", "foe", "crr", "wcrr", "icnn"] = _option(
        "foe", "total variation, field of experts, convex or weakly convex ridge regularizer, or input-convex network"
    )
    isotropic: bool = _option(True, "tv: both differences under one root")
    filters: int = _option(32, "foe, crr, wcrr, icnn: number of filters (icnn: of each layer)", at_least=1)
    filter_size: int = _option(7, "foe, icnn: side of the filters in pixels", at_least=3, odd=True)
    hidden_channels: tuple[int, ...] = _option(
        (4, 8), "crr, wcrr: their filters are composed of layers, with so many channels between them", at_least=1
    )
    layer_size: int = _option(5, "crr, wcrr: side of the filters of each layer", at_least=3, odd=True)
    potential: Literal["charbonnier", "huber", "mcp", "log", "spline", "weak_spline"] = _option(
        "charbonnier", "foe: potential of the responses; spline is learned and convex, weak_spline weakly convex"
    )
    shared_potential: bool = _option(True, "spline, weak_spline, crr, wcrr: one learned potential for all filters")
    boundary: Literal["valid", "circular", "reflect"] = _option(
        "circular", "foe, crr, wcrr: how filters meet the border"
    )
    weak_convexity: float = _option(0.95, "mcp, weak_spline, wcrr: modulus rho", above=0, below=1)
    weight: float = _option(0.01, "initial weight", above=0)
    smoothing: float = _option(0.01, "initial smoothing; below the weight for mcp, weak_spline, wcrr", above=0)
    least_smoothing: float = _option(
        0.0, "charbonnier, huber, log, spline, crr: smoothings stay above; the larger, the faster to solve", at_least=0
    )
    noise_nodes: int = _option(
        0,
        "weights and smoothings are learned at so many noise levels from 5/255 to 50/255 and interpolated between; the "
        "initial ones are those at 25/255, and proportional to the level. 0: the same at all levels",
        at_least=0,
    )
    contrast_channels: int = _option(
        0,
        "foe, crr, wcrr: thresholds follow the image: a network of so many channels finds them for every filter and "
        "pixel from what `start` reconstructs; the regularizer begins as `start`. 0: the same thresholds everywhere",
        at_least=0,
    )
    start: str = _option(
        "",
        "begin with the regularizer of this model, a run folder or a file: its architecture and weights. A larger "
        "filter_size (foe), another weak_convexity or least_smoothing and shared_potential = false refine it",
    )
    learn: Literal["all", "scale"] = _option(
        "all", "everything, or two numbers: amplitude a and contrast c of (a / c^2) R(c x), R that of `start`"
    )


@dataclass(frozen=True)
class Lower:
    solver: Literal["lbfgs", "agd", "gd_polyak"] = _option(
        "lbfgs", "preconditioned L-BFGS, accelerated gradient, or gradient descent with Polyak steps"
    )
    final_accuracy: float = _option(0.1, "certified ||x - argmin h|| of validation and evaluation", above=0)
    uncertified: bool = _option(
        False, "isgd: train also where h is not provably strongly convex, on stationary points that nothing certifies"
    )
    max_iterations: int = _option(20_000, "gradients after which an image stops uncertified", at_least=1)


@dataclass(frozen=True)
class Upper:
    algorithm: Literal["isgd", "maid", "meha", "gd_polyak", "stocbio", "amigo", "hoag", "jfb", "unroll"] = _option(
        "isgd", "upper-level method"
    )
    optimizer: Literal["sgd", "momentum", "adam", "adabelief"] = _option("adam", "direction of the stochastic methods")
    schedule: Literal["constant", "polynomial", "logarithmic", "one_cycle"] = _option("one_cycle", "of the step size")
    step_size: float = _option(0.0, "alpha_0, or the peak of one_cycle; 0: found at the first step", at_least=0)
    step_decay: float = _option(
        0.6,
        "q of polynomial steps alpha_0 (k + 1)^-q; of a step that was found, from the tenth on",
        at_least=0,
    )
    accuracy: float = _option(0.0, "eps_0, bound on ||x - argmin h|| per patch; 0: found at the first step", at_least=0)
    accuracy_schedule: Literal["polynomial", "logarithmic"] = _option("polynomial", "of the accuracy")
    accuracy_decay: float = _option(0.0, "p of polynomial eps_k = eps_0 (k + 1)^-p; 0 keeps eps_0", at_least=0)
    relative_accuracy: float = _option(
        0.0,
        "isgd: tighten eps_k until the error of the hypergradient is this share of its norm, and start from there the "
        "next time; 0 keeps eps_k",
        at_least=0,
    )
    relative_error: Literal["estimated", "proven"] = _option(
        "estimated",
        "isgd with relative_accuracy: the error from two solves, or proven (practical for tv and in float64: for foe "
        "the proof asks for more digits than float32 has)",
    )
    batch_size: int = _option(8, "patches per step of the stochastic methods", at_least=1)


@dataclass(frozen=True)
class StocbioOptions:
    lower_steps: int = _option(10, "D: gradient steps on the lower level", at_least=1)
    series_terms: int = _option(10, "Q: terms of the Neumann series", at_least=1)


@dataclass(frozen=True)
class AmigoOptions:
    lower_steps: int = _option(10, "T: gradient steps on the lower level", at_least=1)
    adjoint_steps: int = _option(10, "N: gradient steps on the linear system", at_least=1)


@dataclass(frozen=True)
class UnrollOptions:
    iterations: int = _option(20, "T: accelerated gradient steps on the lower level", at_least=1)
    backward_steps: int = _option(0, "differentiate through the last so many of them; 0: through all", at_least=0)


@dataclass(frozen=True)
class MehaOptions:
    c: float = _option(
        10.0, "c of c_k = c (k + 1)^p, which divides the loss: a larger c is less biased, and slower", above=0
    )
    p: float = _option(0.0, "p of c_k", at_least=0, below=0.5)
    gamma: float = _option(0.0, "of the Moreau envelope; 0: from proven bounds", at_least=0)
    eta: float = _option(0.0, "step of the proximal variable; 0: found", at_least=0)
    beta: float = _option(0.0, "step of the lower-level variable; 0: found", at_least=0)
    preconditioned: bool = _option(True, "both in the metric of the preconditioner; false: as in the paper")


@dataclass(frozen=True)
class MaidOptions:
    eta: float = _option(0.5, "the error of the hypergradient z is kept below (1 - eta) ||z||", above=0, below=1)
    error: Literal["estimated", "proven"] = _option(
        "estimated", "that error from two solves, or proven (practical for tv and in float64)"
    )
    barzilai_borwein: bool = _option(True, "first trial of a step: Barzilai-Borwein instead of 10/9 of the last step")
    memory: int = _option(1, "a loss may rise to the largest of so many last ones; 1: it always falls", at_least=1)


@dataclass(frozen=True)
class HoagOptions:
    tolerance: Literal["quadratic", "cubic", "exponential"] = _option(
        "quadratic", "eps_k / eps_0 = (k + 1)^-2, (k + 1)^-3 or 0.9^k"
    )


@dataclass(frozen=True)
class GdPolyakOptions:
    short_steps: int = _option(5, "gradient steps before each Polyak step", at_least=1)


@dataclass(frozen=True)
class Run:
    steps: int = _option(1500, "upper-level steps", at_least=1)
    budget: float = _option(
        0.0,
        "end after so many computations (gradients and Hessian products, summed over images), and validate at every "
        "twentieth of them unless validate_every = 0; 0: run.steps alone",
        at_least=0,
    )
    seed: int = _option(0, "of crops, noise, masks and sampling", at_least=0)
    device: str = _option("auto", "auto | cpu | cuda | cuda:N")
    precision: Literal["float32", "float64"] = _option("float32", "of all computations")
    validate_every: int = _option(250, "steps between validations; 0 only at the end", at_least=0)
    checkpoint_every: int = _option(50, "steps between checkpoints", at_least=1)
    average: int = _option(
        0, "hand over the running mean of the parameters over about so many steps; 0: the last ones", at_least=0
    )
    keep_best: bool = _option(False, "hand over what was best on the held-out images")
    patience: int = _option(0, "end after so many validations without a better one; 0: never", at_least=0)


@dataclass(frozen=True)
class Config:
    problem: Problem = Problem()
    data: Data = Data()
    regularizer: RegularizerOptions = RegularizerOptions()
    lower: Lower = Lower()
    upper: Upper = Upper()
    stocbio: StocbioOptions = StocbioOptions()
    amigo: AmigoOptions = AmigoOptions()
    unroll: UnrollOptions = UnrollOptions()
    meha: MehaOptions = MehaOptions()
    maid: MaidOptions = MaidOptions()
    hoag: HoagOptions = HoagOptions()
    gd_polyak: GdPolyakOptions = GdPolyakOptions()
    run: Run = Run()

    def __post_init__(self) -> None:
        r = self.regularizer
        kind = r.potential if r.name == "foe" else r.name
        budgeted = kind in ("mcp", "weak_spline", "wcrr")
        if budgeted and r.smoothing >= r.weight:
            raise ConfigError(f"regularizer.smoothing = {r.smoothing} must be below weight = {r.weight} for {kind}")
        if r.least_smoothing and (budgeted or kind in ("tv", "icnn")):
            raise ConfigError(f"regularizer.least_smoothing = {r.least_smoothing} is not for {kind}: set it to 0")
        if r.least_smoothing >= r.smoothing:
            raise ConfigError(
                f"regularizer.least_smoothing = {r.least_smoothing} must be below the initial smoothing = {r.smoothing}"
            )
        if self.problem.noise_low or self.problem.noise_high:
            self._check_noise_levels()
        elif r.noise_nodes and not r.start:
            raise ConfigError("regularizer.noise_nodes needs problem.noise_low and noise_high: levels to learn from")
        if r.name == "icnn" and r.noise_nodes:
            raise ConfigError("regularizer.noise_nodes is not for icnn, which is the same at all noise levels")
        if r.name == "icnn" or r.contrast_channels:
            self._check_no_proof("icnn" if r.name == "icnn" else "regularizer.contrast_channels")
        if r.contrast_channels and self.problem.learn_kernel:
            raise ConfigError("problem.learn_kernel is not for regularizer.contrast_channels")
        if self.problem.learn_kernel:
            self._check_learned_kernel()
        if self.lower.uncertified:
            self._check_uncertified()
        if self.data.patch_size % self.problem.enlargement:
            raise ConfigError(
                f"data.patch_size = {self.data.patch_size} must be a multiple of problem.factor = {self.problem.factor}"
            )

    def _check_uncertified(self) -> None:
        if self.upper.algorithm != "isgd":
            raise ConfigError(f"lower.uncertified = true is for upper.algorithm = isgd, not {self.upper.algorithm}")
        if self.upper.relative_accuracy > 0:
            raise ConfigError("upper.relative_accuracy needs certified errors: set lower.uncertified = false")

    def _check_no_proof(self, what: str) -> None:
        proven = [
            name
            for name, error in (("upper.relative_error", self.upper.relative_error), ("maid.error", self.maid.error))
            if error == "proven"
        ]
        if proven:
            raise ConfigError(f"{proven[0]} = proven is not for {what}: set it to estimated")

    def _check_noise_levels(self) -> None:
        low, high = self.problem.noise_low, self.problem.noise_high
        if not 0 < low < high:
            raise ConfigError(
                f"problem.noise_low = {low:g} must be above 0 and below noise_high = {high:g}, or both must be 0"
            )
        if self.data.noise == "fixed":
            raise ConfigError(
                "problem.noise_low and noise_high draw new levels for every visit: set data.noise = fresh"
            )

    def _check_learned_kernel(self) -> None:
        p, d = self.problem, self.data
        if p.task != "deblur":
            raise ConfigError(f"problem.learn_kernel = true is for task = deblur; set it to false for {p.task}")
        if p.kernel == "levin:all":
            raise ConfigError("problem.learn_kernel finds one kernel: problem.kernel = levin:all has eight")
        if p.ridge == 0:
            raise ConfigError("problem.learn_kernel needs a ridge above 0: a learned kernel may lose any frequency")
        for side in ("patch_size", "validation_crop"):
            if p.learned_kernel_size > getattr(d, side):
                raise ConfigError(
                    f"problem.learned_kernel_size = {p.learned_kernel_size} must be at most data.{side} = "
                    f"{getattr(d, side)}"
                )
