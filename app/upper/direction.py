"""From gradients to directions: theta <- theta - alpha_k d_k.

    plain       d = g
    momentum    m <- beta_1 m + g,  d = m                                   (Polyak, 1964)
    adam        d = m^ / (sqrt(v^) + 1e-8),  v the mean of g^2              (arXiv 1412.6980, Algorithm 1)
    adabelief   d = m^ / (sqrt(s^) + 1e-8),  s the mean of (g - m)^2        (arXiv 2010.07468, Algorithm 2)

m, v, s are exponential means (factors 0.9 and 0.999) corrected for their start at zero. They live in the state.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from app.upper.method import State, Theta

Direction = Callable[[Theta, State], Theta]

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # the papers' defaults


def plain(gradient: Theta, state: State) -> Theta:
    return gradient


def momentum(gradient: Theta, state: State) -> Theta:
    return tuple(_update(state, f"momentum.{i}", BETA_1, g) for i, g in enumerate(gradient))


def adam(gradient: Theta, state: State) -> Theta:
    t = _count(state)
    result = []
    for i, g in enumerate(gradient):
        m = _update(state, f"adam.m.{i}", BETA_1, (1 - BETA_1) * g)
        v = _update(state, f"adam.v.{i}", BETA_2, (1 - BETA_2) * g.square())
        result.append(_ratio(m, v, t))
    return tuple(result)


def adabelief(gradient: Theta, state: State) -> Theta:
    t = _count(state)
    result = []
    for i, g in enumerate(gradient):
        m = _update(state, f"adabelief.m.{i}", BETA_1, (1 - BETA_1) * g)
        s = _update(state, f"adabelief.s.{i}", BETA_2, (1 - BETA_2) * (g - m).square())
        result.append(_ratio(m, s, t))
    return tuple(result)


def _update(state: State, name: str, factor: float, new: Tensor) -> Tensor:
    old = state.values.get(name)
    state.values[name] = new.clone() if old is None else factor * old + new
    return state.values[name]


def _count(state: State) -> int:
    t = int(state.values.get("direction.count", torch.tensor(0))) + 1
    state.values["direction.count"] = torch.tensor(t)
    return t


def _ratio(m: Tensor, v: Tensor, t: int) -> Tensor:
    return m / (1 - BETA_1**t) / ((v / (1 - BETA_2**t)).sqrt() + EPSILON)
