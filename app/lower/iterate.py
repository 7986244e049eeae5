"""The loop of all solvers: it owns the gradients, the error bounds, and which images are still at work.

    ||x - argmin h|| <= ||grad h(x)|| / mu        for a mu-strongly convex h, however x was found.

Rounding is not in this bound: training takes it as an estimate, and certificate.py proves what users are told.

A solver is a start and a step: `begin` makes the state of the images from the first gradient, `state.point` is where it
asks for the next one, and `step` makes the next state of it. The loop keeps the best point of each image with its
bound, counts gradients, gives up where rounding ends all progress, and takes finished images out of the batch, several
at a time. (The division of labour is that of Optimistix, arXiv 2402.09983.)

The loop also compares the energy with what it claims of itself: for any two points, <dx, dg> / <dx, dx> is a mean of
curvatures, so no quotient may lie below mu.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from app.lower.energy import Energy
from app.lower.solution import LowerSolution, NotStronglyConvexError, PerImage, check_every, norm

MAX_ITERATIONS = 20_000
ROUNDINGS = 16  # units of eps (L ||x|| + ||A^T y||) by which rounding may change a gradient
IDLE = 0.5  # gradients for each image at work, spent on finished ones, that cost as much as to copy what is at work


class State(Protocol):
    """What a solver remembers of the images that are still at work."""

    @property
    def point(self) -> Tensor:
        """Where it asks for the next gradient, (B, C, H, W)."""
        ...

    def take(self, images: Tensor) -> Self:
        """Return the state of these images of the batch."""
        ...


S = TypeVar("S", bound=State)


def no_overhead(state: State) -> int:
    """Return 0: most solvers start from the first gradient alone."""
    return 0


def patience_of(count: int) -> Callable[[Energy, State], float]:
    """Return the patience of `count` times sqrt(L / mu) + 1 gradients."""
    return lambda energy, state: count * (1 + int((energy.bounds[1] / energy.bounds[0]) ** 0.5))


@dataclass(frozen=True, kw_only=True)
class Scheme(Generic[S]):
    """A solver: how it starts and steps, and when it gives up.

    begin(h, x, grad h(x)) -> state
    step(h, state, point, grad h(point), stalled) -> next state, <dx, dg>, <dx, dx>
        stalled (B,): gradients since the smallest one was halved; dx and dg: between two points where grad h is known.
    patience(h, state) -> how large `stalled` may become, one number or (B,)
    renew(h, state, images): begins again with these images, in place; once, when their error bound has fallen by the
        factor renew_after.
    overhead(state) -> what begin or renew cost, in gradients
    """

    begin: Callable[[Energy, Tensor, Tensor], S]
    step: Callable[[Energy, S, Tensor, Tensor, Tensor], tuple[S, Tensor, Tensor]]
    patience: Callable[[Energy, S], Tensor | float]
    renew: Callable[[Energy, S, Tensor], None] | None = None
    renew_after: float = torch.inf
    overhead: Callable[[S], int] = no_overhead


@dataclass
class _Books(PerImage):
    """What the loop keeps of the images at work."""

    place: Tensor  # (B,) in the whole batch
    at_work: Tensor  # (B,) bool: nothing of an image that is not changes any more
    best: Tensor  # (B, C, H, W) the point with the smallest gradient
    bound: Tensor  # (B,) its error bound
    iterations: Tensor  # (B,)
    milestone: Tensor  # (B,) error bounds count as halved when they are half of this
    stalled: Tensor  # (B,) gradients since then; infinite after one that is no number
    renew_below: Tensor  # (B,) an error bound; 0 once it was reached
    noise: Tensor  # (B,) what rounding may change ||dg|| by
    least: Tensor  # (B,) the smallest mean curvature of a step, plus what rounding may change it by

    def certify(self, point: Tensor, error: Tensor, accuracy: float) -> None:
        """Remember the best point. What is accurate already stays as it is, however late it is looked at."""
        open_ = self.at_work & (self.bound > accuracy)
        self.iterations = self.iterations + open_
        improved = open_ & (error < self.bound)
        self.best, self.bound = choose(improved, (point, error), lambda: (self.best, self.bound))
        halved = error <= self.milestone / 2
        self.milestone = torch.where(halved, error, self.milestone)
        self.stalled = (self.stalled + 1).masked_fill_(halved, 0).masked_fill_(error.isnan(), torch.inf)

    def put(self, part: "_Books") -> None:
        """Write down what was found for images that leave."""
        for name in ("best", "bound", "iterations", "least"):
            getattr(self, name)[part.place] = getattr(part, name)

    def solution(self, accuracy: float) -> LowerSolution:
        """Return what is certified."""
        converged = self.bound <= accuracy
        return LowerSolution(x=self.best, error_bound=self.bound, converged=converged, iterations=self.iterations)

    def compare(self, along: Tensor, squared: Tensor) -> None:  # (B,), (B,)
        """Remember the mean curvature along a step. That of no step is no number, and ignored."""
        mean = torch.addcmul(along, self.noise, squared.sqrt()) / squared
        self.least = torch.where(self.at_work, torch.fmin(self.least, mean), self.least)


@torch.no_grad()
def iterate(
    scheme: Scheme, energy: Energy, start: Tensor, accuracy: float, max_iterations: int
) -> LowerSolution:  # (B, C, H, W) -> x (B, C, H, W)
    """Minimise h for each image, until ||grad h|| / mu <= accuracy (an l2 distance on the scale of x).

    The returned point is the one whose gradient was certified. An image that rounding keeps from its accuracy (float32
    certifies down to about 4e-7 ||x|| / mu) stops unconverged, with the bound it reached. Raises NotStronglyConvexError
    if mu <= 0, and CurvatureError where a step has met less curvature than mu.
    """
    mu, _ = energy.bounds
    if mu <= 0:
        raise NotStronglyConvexError(mu)
    whole, start = energy, start.contiguous()  # every sum per image would make a copy of permuted (B, H, W, C)
    g = energy.gradient(start)
    results = _begin(scheme, energy, start, g)
    todo = ((results.bound > accuracy) & results.stalled.isfinite()).nonzero()[:, 0]
    if len(todo) == 0:
        return results.solution(accuracy)
    energy, books = energy.take(todo), results.take(todo)
    state, idle = scheme.begin(energy, start[todo], g[todo]), 0
    books.iterations += scheme.overhead(state)
    for k in range(2, max_iterations + 1):
        g = energy.gradient(point := state.point)
        books.certify(point, norm(g) / mu, accuracy)
        state, along, squared = scheme.step(energy, state, point, g, books.stalled)
        books.compare(along, squared)
        if (k - 1) % check_every(start.device) and k < max_iterations:
            continue
        books.at_work &= (books.bound > accuracy) & (books.stalled < scheme.patience(energy, state))
        kept, gone, due = _look(books.at_work & (k < max_iterations), books.bound < books.renew_below)
        if not kept:
            break
        idle += check_every(start.device) * len(gone)
        if idle > IDLE * len(kept):
            results.put(books.take(torch.tensor(gone, device=start.device)))
            images, idle = torch.tensor(kept, device=start.device), 0
            energy, state, books = energy.take(images), state.take(images), books.take(images)
            due = [n for n, i in enumerate(kept) if i in due]
        if due and scheme.renew is not None:
            images = torch.tensor(due, device=start.device)
            scheme.renew(energy, state, images)
            books.renew_below[images] = 0
            books.iterations[images] += scheme.overhead(state)
    results.put(books)
    whole.check_curvature(results.least)
    return results.solution(accuracy)


def _begin(scheme: Scheme, energy: Energy, x: Tensor, g: Tensor) -> _Books:
    mu, largest = energy.bounds
    error = norm(g) / mu
    bound = error.nan_to_num(torch.inf, torch.inf)
    # x stays within 2 ||grad h|| / mu of its start.
    scale = largest * (norm(x) + 2 * error) + norm(energy.backprojection)
    return _Books(
        place=torch.arange(len(x), device=x.device),
        at_work=torch.ones(len(x), dtype=torch.bool, device=x.device),
        best=x.clone(),
        bound=bound,
        iterations=torch.ones(len(x), dtype=torch.long, device=x.device),
        milestone=bound.clone(),
        stalled=torch.zeros_like(bound).masked_fill(error.isnan(), torch.inf),
        renew_below=bound / scheme.renew_after,
        noise=2 * ROUNDINGS * torch.finfo(x.dtype).eps * scale,
        least=torch.full_like(bound, torch.inf),
    )


def _look(open_: Tensor, due: Tensor) -> tuple[list[int], list[int], list[int]]:  # (B,), (B,)
    """Return which images are at work, which are not, and which of those at work are due."""
    flags = torch.stack((open_, due)).tolist()  # the only wait for the device
    kept = [i for i, stays in enumerate(flags[0]) if stays]
    gone = [i for i, stays in enumerate(flags[0]) if not stays]
    return kept, gone, [i for i in kept if flags[1][i]]


def unanimous(condition: Tensor) -> bool:  # (B,)
    """Tell whether it holds for every image, as far as asking costs nothing: then no pixel need be touched."""
    return condition.device.type == "cpu" and bool(condition.all())


def choose(
    condition: Tensor, new: tuple[Tensor, ...], old: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:  # condition (B,), the others (B, ...)
    """Return the new tensors for the images that meet the condition, and the old ones for the others."""
    if unanimous(condition):
        return new
    return tuple(torch.where(condition.view(-1, *[1] * (n.ndim - 1)), n, o) for n, o in zip(new, old(), strict=True))
