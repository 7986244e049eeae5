"""What an upper-level method is to the training loop: a step on a batch, and a state that checkpoints can hold."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.solution import NonFiniteError
from app.upper.hypergradient import Hypergradient, Learned, Loss

Theta = tuple[Tensor, ...]  # parameters, or a gradient or direction of them

ACCURACY_SHARE = 0.02


@dataclass(frozen=True)
class Batch:
    """Lower-level problems h_b(., theta) with their losses, and which images of the training set they are."""

    learned: Learned
    energy: Callable[[], Energy]  # at the present theta
    loss: Loss
    images: tuple[int, ...]
    computations: int = 0  # spent on making it
    coarseness: float = 1.0  # of the accuracy eps_k for this batch, where batches differ in their noise level


@dataclass
class State:
    """What a method carries from step to step: tensors by name, and tensors of single images by name.

    Tensors are replaced, never changed in place. Those of images are kept for a finite sum only: fresh noise must not
    meet a warm start, because the solver would average the noise of many visits away and the training error would no
    longer be that of one measurement.
    """

    finite_sum: bool
    values: dict[str, Tensor] = field(default_factory=dict)
    images: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    def recall(self, name: str, images: tuple[int, ...], cold: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """The tensors remembered of these images, or `cold` where there are none."""
        known = self.images.get(name, {})
        return torch.stack([known.get(i, c).to(c) for i, c in zip(images, cold, strict=True)])

    def remember(self, name: str, images: tuple[int, ...], tensors: Tensor) -> None:
        if self.finite_sum:
            known = self.images.setdefault(name, {})
            known.update((i, t.clone()) for i, t in zip(images, tensors, strict=True))

    def copy(self) -> "State":
        return State(self.finite_sum, dict(self.values), {name: dict(known) for name, known in self.images.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Flat, for a checkpoint."""
        single = {f"image.{name}.{i}": t for name, known in self.images.items() for i, t in known.items()}
        return {f"value.{name}": t for name, t in self.values.items()} | single

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        self.values.clear()
        self.images.clear()
        for key, tensor in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "value":
                self.values[name] = tensor.to(device)
            elif kind == "image":
                name, _, i = name.rpartition(".")
                self.images.setdefault(name, {})[int(i)] = tensor.to(device)


@dataclass(frozen=True)
class Step:
    """What one step saw and did; NaN and empty tensors where a method has no such thing."""

    x: Tensor  # (B, C, H, W), the lower level before the step
    loss: Tensor  # (B,) at x
    accuracy: float  # eps_k asked of the lower level
    step_size: float  # alpha_k
    error_bound: Tensor  # (B,) certified ||x - argmin h||
    certified: Tensor  # (B,) bool: whether both solves reached their accuracy
    lower_iterations: Tensor  # (B,) gradients of h
    linear_iterations: Tensor  # (B,) products with H
    computations: int  # gradients, products and preconditioners of the step, summed over images


class Method(Protocol):
    """One algorithm of one paper. `step` moves theta = batch.learned.parameters() in place, or raises NonFiniteError
    with theta untouched."""

    full_batch: ClassVar[bool]  # whether it needs the whole finite sum at every step
    finite_sum: ClassVar[bool]  # whether what it carries of an image needs the image's noise to stay
    needs_convexity: ClassVar[bool]  # whether it needs a strongly convex lower level

    def step(self, k: int, batch: Batch, state: State) -> Step: ...


def energy_at(k: int, batch: Batch) -> Energy:
    """The energy at the present theta. Raises NonFiniteError where theta has left the range of numbers."""
    energy = batch.energy()
    try:
        _ = energy.bounds
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} at step {k}") from None
    return energy


def require_finite(k: int, *tensors: Tensor) -> None:
    if not all(bool(t.isfinite().all()) for t in tensors):
        raise NonFiniteError(f"the loss or its gradient is not finite at step {k}")


@torch.no_grad()
def move(parameters: Theta, direction: Theta, step_size: float) -> None:
    """theta <- theta - step_size direction, in place."""
    for p, d in zip(parameters, direction, strict=True):
        p.sub_(d, alpha=step_size)


@dataclass
class Computations:
    """Gradients of h, products with H and preconditioners, summed over images: the papers' unit of cost."""

    total: int = 0

    def add(self, per_image: Tensor) -> None:
        self.total += int(per_image.sum())


def warm_start(batch: Batch, energy: Energy, state: State) -> tuple[Tensor, Tensor | None]:
    """The last (x, q) of the images, or where the energy has its start, and nothing."""
    cold = energy.start
    q = state.recall("q", batch.images, torch.zeros_like(cold)) if "q" in state.images else None
    return state.recall("x", batch.images, cold), q


def first_accuracy(batch: Batch, energy: Energy, state: State) -> float:
    """eps_0 as a share of the distance between the first measurements and the clean images: the error of x is then
    this share, or some of it, of the gradient of a squared loss. For a batch of coarseness 1."""
    if "eps_0" not in state.values:
        slope = batch.loss.gradient(energy.backprojection).flatten(1).norm(dim=1).mean()
        state.values["eps_0"] = ACCURACY_SHARE * slope / (batch.loss.smoothness * batch.coarseness)
    return float(state.values["eps_0"])


def remember(batch: Batch, state: State, z: Hypergradient) -> None:
    state.remember("x", batch.images, z.lower.x)
    state.remember("q", batch.images, z.linear.q)


def length(gradient: Theta) -> float:
    """||g||, over all parameters."""
    return float(sum(g.double().square().sum() for g in gradient)) ** 0.5


def report(z: Hypergradient, accuracy: float, step_size: float, computations: int) -> Step:
    """The step of a method built on certified hypergradients."""
    return Step(
        z.lower.x, z.loss, accuracy, step_size, z.lower.error_bound, z.lower.converged & z.linear.converged,
        z.lower.iterations, z.linear.iterations, computations,
    )  # fmt: skip


def report_truncated(
    x: Tensor, loss: Tensor, error_bound: Tensor, step_size: float, counts: tuple[int, int], computations: int
) -> Step:
    """The step of a method whose solves end after so many gradients and products, whatever they have reached."""
    gradients, products = (torch.full_like(loss, n, dtype=torch.long) for n in counts)
    never = torch.zeros_like(loss, dtype=torch.bool)
    return Step(x, loss, float("nan"), step_size, error_bound, never, gradients, products, computations)
