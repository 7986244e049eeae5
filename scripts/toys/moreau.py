"""The examples of MEHA (Liu, Liu, Yao, Zeng, Zhang: arXiv 2405.09927), whose solutions are known.

    non-convex   min (x - 2)^2 + (y - 4)^2    with y in argmin sin(x + y - 2):    x = 3 pi / 4,  y = 2 + 3 pi / 4
    convex       min 1/2 ||x - y_2||^2 + 1/2 ||y_1 - 1||^2    with y in argmin 1/2 ||y_1||^2 - <x, y_1>:    all are 1

of the dimensions 1 and 10. c_k = c (k + 1)^p divides the upper level. The paper proves, for gamma < 1 / (2 rho), small
steps and 0 <= p < 1/2, over the first K iterations,

    min ||w - w*|| = O(K^(-1/2)),    min R = O(K^(p - 1/2)),    R = ||grad (F / c_k + h - v)|| at (x, u).

x_lr, y_lr and z_lr of the authors' public code (github.com/LiuZhu-CV/MEHA) are alpha, beta and eta here; starts are its
starts. gamma and p are ours: that code fixes others where it runs MEHA, and it multiplies the upper level by a c_k that
grows, which is p < 0 here. This is one of the examples, and so are steps that are proven to descend (moreau.py).

The lines of the algorithm are those of app/upper/methods/moreau.py. `Meha` itself moves the parameters of a regularizer
by the energies of images with squared losses; here u is no image, and h is neither.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from app.upper.methods.moreau import Sizes, Slopes, iterate, proven_sizes
from app.upper.theta import Theta


@dataclass(frozen=True, kw_only=True)
class Example:
    """A bilevel problem in (x, u), its steps, and what is known of it."""

    slopes: Callable[[Tensor], Slopes]  # x -> the gradients at x
    proximal: Callable[[Tensor, Tensor], Tensor]  # (x, u) -> argmin_w h(x, w) + ||w - u||^2 / (2 gamma)
    x: Tensor
    u: Tensor
    solution: tuple[Tensor, Tensor]
    alpha: float
    sizes: Callable[[int], Sizes]  # k -> those of iteration k
    p: float
    steps: int  # K
    setting: str


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is seen after each iteration, (K,) each."""

    distance: Tensor  # to the solution, relative to that at the start
    residual: Tensor  # R
    lag: Tensor  # ||w - w*||


def non_convex(steps: int = 20_000) -> Example:
    """Return the example with a sine, whose lower level is 1-weakly convex."""
    gamma, p = 0.25, 0.125

    def slopes(x: Tensor) -> Slopes:
        return Slopes(
            lambda y: 2 * (y - 4), lambda y: (2 * (x - 2),), lambda y: (x + y - 2).cos(), lambda y: ((x + y - 2).cos(),)
        )

    def proximal(x: Tensor, u: Tensor) -> Tensor:
        w = u
        for _ in range(8):  # Newton's method; the derivative is at least 1 - gamma
            t = x + w - 2
            w = w - (gamma * t.cos() + w - u) / (1 - gamma * t.sin())
        return w

    solution = (torch.tensor([0.75 * pi]).double(), torch.tensor([2 + 0.75 * pi]).double())
    start = (torch.tensor([-6.0]).double(), torch.tensor([0.0]).double())
    return Example(
        slopes=slopes, proximal=proximal, x=start[0], u=start[1], solution=solution, alpha=5e-4, p=p, steps=steps,
        sizes=lambda k: Sizes(gamma, 0.01, 5e-4, 2.0 * (k + 1) ** p),
        setting="alpha = beta = 5e-4, eta 0.01, gamma 0.25, c_k = 2 (k + 1)^(1/8)",
    )  # fmt: skip


def convex(alpha: float, p: float, steps: int, gamma: float, sizes: Callable[[int], Sizes], setting: str) -> Example:
    """Return the example whose lower level is convex, and no more: y_2 is free. The parameters are the algorithm's."""
    one = torch.ones(10, dtype=torch.float64)

    def slopes(x: Tensor) -> Slopes:
        return Slopes(
            lambda y: torch.stack([y[0] - 1, y[1] - x]), lambda y: (x - y[1],),
            lambda y: torch.stack([y[0] - x, 0 * x]), lambda y: (-y[0],),
        )  # fmt: skip

    def proximal(x: Tensor, u: Tensor) -> Tensor:
        return torch.stack([(u[0] + gamma * x) / (1 + gamma), u[1]])

    return Example(
        slopes=slopes, proximal=proximal, x=0.01 * one, u=torch.stack([0.01 * one, 0.01 * one]),
        solution=(one, torch.stack([one, one])), alpha=alpha, p=p, steps=steps, sizes=sizes, setting=setting,
    )  # fmt: skip


def public_steps(steps: int = 1000) -> Example:
    """Return the convex example with the steps of the public code, and c_k as the paper has it."""
    sizes = lambda k: Sizes(5.0, 0.01, 0.1, 2.0 * (k + 1) ** 0.25)  # noqa: E731
    setting = "alpha = eta = 0.01, beta 0.1, gamma 5, c_k = 2 (k + 1)^(1/4)"
    return convex(0.01, 0.25, steps, 5.0, sizes, setting)


def public_code(steps: int = 725) -> Example:
    """Return the convex example with the steps and weights of the public code, which moves u before x: F is multiplied
    by 0.6 (k + 1)^0.49, for 725 iterations. From 1,290 on, beta times that is more than 2, and it would diverge."""
    sizes = lambda k: Sizes(5.0, 0.009, 0.1, 1 / (0.6 * (k + 1) ** 0.49))  # noqa: E731
    setting = "alpha 0.012, beta 0.1, eta 0.009, gamma 5, c_k = (k + 1)^(-0.49) / 0.6"
    return convex(0.012, -0.49, steps, 5.0, sizes, setting)


def proven_steps(steps: int = 5000) -> Example:
    """Return the convex example with beta and eta that are proven to descend."""
    sizes = lambda k: proven_sizes(0.0, 1.0, 1.0, 10.0, 2.0 * (k + 1) ** 0.25)  # noqa: E731
    setting = "alpha 0.1, beta and eta proven, gamma 10, c_k = 2 (k + 1)^(1/4)"
    return convex(0.1, 0.25, steps, 10.0, sizes, setting)


EXAMPLES = {
    "non-convex": non_convex, "convex, public steps": public_steps, "convex, public code": public_code,
    "convex, proven steps": proven_steps,
}  # fmt: skip


def course(example: Example) -> Course:
    """Run the algorithm from w = u."""
    x, u, w = example.x, example.u, example.u
    start, rows = _distance(example, x, u), []
    for k in range(example.steps):
        sizes = example.sizes(k)

        def move(d: Theta) -> Slopes:
            nonlocal x
            x = x - example.alpha * d[0]
            return example.slopes(x)

        u, w = iterate(example.slopes(x), u, w, sizes, move)
        best = example.proximal(x, u)
        rows.append((_distance(example, x, u) / start, residual(example, x, u, best, sizes), float((w - best).norm())))
    distance, found, lag = torch.tensor(rows, dtype=torch.float64).T
    return Course(distance=distance, residual=found, lag=lag)


def residual(example: Example, x: Tensor, u: Tensor, best: Tensor, sizes: Sizes) -> float:
    """Return ||grad (F / c_k + h - v)||, where grad v = (dh/dx(x, w*), (u - w*) / gamma) at w* = best."""
    at = example.slopes(x)
    assert at.upper_by_theta is not None
    by_x = at.upper_by_theta(u)[0] / sizes.c + at.lower_by_theta(u)[0] - at.lower_by_theta(best)[0]
    by_u = at.upper(u) / sizes.c + at.lower(u) - (u - best) / sizes.gamma
    return float((by_x.square().sum() + by_u.square().sum()).sqrt())


def _distance(example: Example, x: Tensor, u: Tensor) -> float:
    return float(((x - example.solution[0]).square().sum() + (u - example.solution[1]).square().sum()).sqrt())
