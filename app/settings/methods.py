"""The section [upper]: one dataclass per upper-level method, whose fields are what it reads. Symbols are those of the
papers, which app/upper/methods names."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from app.settings.fields import When, option

# Keys of several methods: a field belongs to one dataclass, so each makes its own.
_accuracy = partial(option, 0.0, "eps_0, bound on ||x - argmin h|| per patch; 0: found at the first step", at_least=0)
_accuracy_decay = partial(option, 0.0, "p of eps_k = eps_0 (k + 1)^-p; 0 keeps eps_0", at_least=0)
_relative_error = partial(
    option, "estimated", "the error of the hypergradient from two solves, or proven (practical for tv and in float64: "
    "for foe the proof asks for more digits than float32 has)",
)  # fmt: skip

_through_guide = partial(
    option, False, "differentiate also what the last reconstruction is conditioned on: one more linear system for each "
    "reconstruction; else it counts as given", when=When(
        "regularizer.learn_guide, or regularizer.updates above 1",
        lambda c: getattr(c.regularizer, "learn_guide", False) or getattr(c.regularizer, "updates", 1) > 1,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class UpperOptions:
    """The keys of all methods."""

    algorithm: ClassVar[str]
    step_size: float = option(
        0.0, "alpha_0, of one_cycle the peak (gd_polyak: eta, hoag: 1 / L_0); 0: found at the first step", at_least=0
    )


@dataclass(frozen=True, kw_only=True)
class StochasticOptions(UpperOptions):
    """The keys of all methods that take steps on mini-batches."""

    optimizer: Literal["sgd", "momentum", "adam", "adabelief"] = option("adam", "direction of the steps")
    schedule: Literal["constant", "polynomial", "logarithmic", "one_cycle"] = option("one_cycle", "of the step size")
    step_decay: float = option(
        0.6, "q of the steps alpha_0 (k + 1)^-q; of a step that was found, from the tenth on",
        when=When("upper.schedule = polynomial", lambda c: c.upper.schedule == "polynomial"), at_least=0,
    )  # fmt: skip
    step_factor: float = option(
        1.0, "multiplies a step that was found",
        when=When("upper.step_size = 0", lambda c: c.upper.step_size == 0), above=0,
    )  # fmt: skip
    batch_size: int = option(8, "patches per step", at_least=1, at_most=4096)


@dataclass(frozen=True, kw_only=True)
class FullBatchOptions(UpperOptions):
    """The keys of all methods that take steps on all images."""

    through_guide: bool = _through_guide()


@dataclass(frozen=True, kw_only=True)
class IsgdOptions(StochasticOptions):
    """Inexact stochastic gradient descent."""

    algorithm: ClassVar[str] = "isgd"
    accuracy: float = _accuracy()
    accuracy_decay: float = _accuracy_decay()
    relative_accuracy: float = option(
        0.0,
        "tighten eps_k until the error of the hypergradient is this share of its norm, and start from there the next "
        "time; 0 keeps eps_k",
        at_least=0,
    )
    relative_error: Literal["estimated", "proven"] = _relative_error(
        when=When("upper.relative_accuracy above 0", lambda c: c.upper.relative_accuracy > 0)
    )
    through_guide: bool = _through_guide()


@dataclass(frozen=True, kw_only=True)
class MaidOptions(FullBatchOptions):
    """Method of adaptive inexact descent."""

    algorithm: ClassVar[str] = "maid"
    accuracy: float = _accuracy()
    eta: float = option(0.5, "the error of the hypergradient z is kept below (1 - eta) ||z||", above=0, below=1)
    relative_error: Literal["estimated", "proven"] = _relative_error()
    barzilai_borwein: bool = option(True, "first trial of a step: Barzilai-Borwein instead of 10/9 of the last step")
    memory: int = option(1, "a loss may rise to the largest of so many last ones; 1: it always falls", at_least=1,
                        at_most=1000)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MehaOptions(StochasticOptions):
    """Moreau envelope based Hessian-free algorithm."""

    algorithm: ClassVar[str] = "meha"
    c: float = option(
        10.0, "c of c_k = c (k + 1)^p, which divides the loss: a larger c is less biased, and slower", above=0
    )
    p: float = option(0.0, "p of c_k", at_least=0, below=0.5)
    gamma: float = option(
        0.0, "of the Moreau envelope; 0: 4 with the preconditioner, else from proven bounds", at_least=0
    )
    eta: float = option(0.0, "step of the proximal variable; 0: found", at_least=0)
    beta: float = option(0.0, "step of the lower-level variable; 0: found", at_least=0)
    preconditioned: bool = option(True, "both in the metric of the preconditioner; false: as in the paper")


@dataclass(frozen=True, kw_only=True)
class GdPolyakOptions(FullBatchOptions):
    """Gradient descent with Polyak steps."""

    algorithm: ClassVar[str] = "gd_polyak"
    accuracy: float = _accuracy()
    accuracy_decay: float = _accuracy_decay()
    short_steps: int = option(5, "gradient steps before each Polyak step", at_least=1)


@dataclass(frozen=True, kw_only=True)
class StocbioOptions(StochasticOptions):
    """The stochastic bilevel optimizer with a Neumann series."""

    algorithm: ClassVar[str] = "stocbio"
    lower_steps: int = option(10, "D: gradient steps on the lower level", at_least=1)
    series_terms: int = option(10, "Q: terms of the Neumann series", at_least=1)


@dataclass(frozen=True, kw_only=True)
class AmigoOptions(StochasticOptions):
    """Amortized implicit differentiation."""

    algorithm: ClassVar[str] = "amigo"
    lower_steps: int = option(10, "T: gradient steps on the lower level", at_least=1)
    adjoint_steps: int = option(10, "N: gradient steps on the linear system", at_least=1)


@dataclass(frozen=True, kw_only=True)
class HoagOptions(FullBatchOptions):
    """Hyperparameter optimization with approximate gradient."""

    algorithm: ClassVar[str] = "hoag"
    accuracy: float = _accuracy()
    tolerance: Literal["quadratic", "cubic", "exponential"] = option(
        "quadratic", "eps_k / eps_0 = (k + 1)^-2, (k + 1)^-3 or 0.9^k"
    )


@dataclass(frozen=True, kw_only=True)
class JfbOptions(StochasticOptions):
    """Jacobian-free backpropagation of the loss."""

    algorithm: ClassVar[str] = "jfb"
    accuracy: float = _accuracy()
    accuracy_decay: float = _accuracy_decay()


@dataclass(frozen=True, kw_only=True)
class UnrollOptions(StochasticOptions):
    """Unrolled accelerated gradient steps."""

    algorithm: ClassVar[str] = "unroll"
    iterations: int = option(20, "T: accelerated gradient steps on the lower level", at_least=1, at_most=10_000)
    backward_steps: int = option(0, "differentiate through the last so many of them; 0: through all", at_least=0)


METHODS: tuple[type[UpperOptions], ...] = (
    IsgdOptions, MaidOptions, MehaOptions, GdPolyakOptions, StocbioOptions, AmigoOptions, HoagOptions, JfbOptions,
    UnrollOptions,
)  # fmt: skip
