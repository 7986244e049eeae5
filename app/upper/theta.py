"""Vector operations on theta, the parameters that the upper level moves: one tensor per parameter, in their order."""

import torch
from torch import Tensor

Theta = tuple[Tensor, ...]  # parameters, or a gradient or direction of them


@torch.no_grad()
def move(theta: Theta, direction: Theta, step_size: float) -> None:
    """Replace theta by theta - step_size direction, in place."""
    for p, d in zip(theta, direction, strict=True):
        p.sub_(d, alpha=step_size)


@torch.no_grad()
def put(theta: Theta, values: Theta) -> None:
    """Put the values into the parameters, in place."""
    for p, v in zip(theta, values, strict=True):
        p.copy_(v)


def copies(theta: Theta) -> Theta:
    """Return the present values, which stay when theta moves."""
    return tuple(p.detach().clone() for p in theta)


def length(gradient: Theta) -> float:
    """Return ||g|| over all parameters, computed in float64."""
    return float(sum(g.double().square().sum() for g in gradient)) ** 0.5


def inner_product(a: Theta, b: Theta) -> float:
    """Return <a, b> over all parameters, computed in float64."""
    return float(sum((p.detach().double() * q.double()).sum() for p, q in zip(a, b, strict=True)))
