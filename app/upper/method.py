"""What an upper-level method is to the training loop: a step on a batch, and a state that checkpoints can hold."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

from app.lower.energy import Energy
from app.upper.hypergradient import Learned, Loss
from app.upper.share import Share

S = TypeVar("S")  # a dataclass, of a kind that state.py can write


@dataclass
class Cost:
    """Gradients of h, products with H and preconditioners, summed over images: the papers' unit of cost."""

    computations: int = 0

    def add(self, per_image: Tensor) -> None:  # (B,)
        self.computations += int(per_image.sum())


@dataclass(frozen=True)
class Batch:
    """Lower-level problems h_b(., theta) with their losses, and which images of the training set they are.

    Where several processes work on a mini-batch, these are the images of this one. A mean, an extreme or a decision is
    one of the whole mini-batch: it is made from what `share` gathers.
    """

    learned: Learned
    energy: Callable[[], Energy]  # at the present theta
    loss: Loss
    images: tuple[int, ...]
    spent: Cost = field(default_factory=Cost)  # on what its energy and derivatives are conditioned on
    tolerance_factor: float = 1.0  # of the accuracy eps_k for this batch, where batches differ in their noise level
    share: Share = field(default_factory=Share)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step saw and did; NaN, infinity and zeros where a method has no such thing.

    A method reports of the images of its process; `fit` gathers the numbers of the whole mini-batch, and their cost.
    """

    x: Tensor  # (B, C, H, W), the lower level before the step
    loss: Tensor  # (B,) at x
    accuracy: float  # eps_k asked of the lower level
    step_size: float  # alpha_k
    error_bound: Tensor  # (B,) of ||x - argmin h||, estimated: rounding is not in it
    certified: Tensor  # (B,) bool: whether both solves reached their accuracy by this estimate
    lower_iterations: Tensor  # (B,) gradients of h
    linear_iterations: Tensor  # (B,) products with H
    computations: int  # gradients, products and preconditioners of the step, summed over images
    target: Tensor | None = None  # (B, C, H, W), what x was compared with, where the caller knows it
    share: Share = field(default_factory=Share)  # whose images x and the target are


class Method(Protocol[S]):
    """One algorithm of one paper.

    `begin` returns the state of a run that has made no step; finite_sum: whether an image has the same noise at every
    visit. `step` moves theta = batch.learned.parameters() in place and updates the state, or raises NonFiniteError
    with theta untouched. A step asks for `images_per_step` of `count` images.
    """

    full_batch: ClassVar[bool]  # whether it needs all images at every step
    needs_finite_sum: ClassVar[bool]  # whether what it carries of an image needs the image's noise to stay
    needs_convexity: ClassVar[bool]  # whether it needs a strongly convex lower level

    @property
    def through_guide(self) -> bool:
        """Whether it asks for derivatives through what a regularizer is conditioned on (app/training/chain.py)."""
        ...

    def begin(self, finite_sum: bool) -> S: ...
    def step(self, k: int, batch: Batch, state: S) -> Step: ...
    def images_per_step(self, count: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Stochastic:
    """What methods that step on mini-batches have in common."""

    batch_size: int = 8

    full_batch: ClassVar[bool] = False
    needs_finite_sum: ClassVar[bool] = False
    needs_convexity: ClassVar[bool] = True
    through_guide = False

    def images_per_step(self, count: int) -> int:
        return self.batch_size


@dataclass(frozen=True, kw_only=True)
class FullBatch:
    """What methods that step on all images have in common."""

    through_guide: bool = False

    full_batch: ClassVar[bool] = True
    needs_finite_sum: ClassVar[bool] = True
    needs_convexity: ClassVar[bool] = True

    def images_per_step(self, count: int) -> int:
        return count
