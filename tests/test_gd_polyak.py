"""Short steps into the ravine and long steps along it: rates on problems of known minimum, then both levels."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from app.lower import gd_polyak, polyak
from app.lower.energy import Energy
from app.lower.solution import norm
from app.upper.methods.gd_polyak import GdPolyak
from app.upper.state import restore, tensors
from regularizers import TotalVariation
from tests.problems import Identity
from tests.test_hypergradient import Tikhonov
from tests.test_training import batch_of, parameters, toy_problem

Function = Callable[[Tensor], Tensor]
SHORT = 40


def quartic(p: Tensor) -> Tensor:
    """A curved ravine, x = y^2: quadratic across it and quartic along it."""
    return 0.5 * (p[0] - p[1] ** 2) ** 2 + p[1] ** 4 / 4


def sensing(p: Tensor) -> Tensor:
    """||A(X X^T) - A(M)||^2 / 4 with twice the rank of M: quartic growth in the superfluous columns."""
    generator = torch.Generator().manual_seed(0)
    planted = torch.randn(8, 1, generator=generator, dtype=torch.float64) / 8**0.5
    a = torch.randn(120, 8, 8, generator=generator, dtype=torch.float64) / 120**0.5
    factor = p.view(8, 2)
    return (a * (factor @ factor.T - planted @ planted.T)).sum((1, 2)).square().sum() / 4


def start_of(f: Function) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if f is quartic:
        return torch.tensor([0.5, 0.5], dtype=torch.float64)
    return 0.3 * torch.randn(16, generator=generator, dtype=torch.float64)


def descend(f: Function, gradients: int, eta: float, kind: str, offset: float = 0.0) -> list[float]:
    """f - f* after each gradient. kind: short steps only, Polyak steps with f* known, or with a bound far below it."""
    values, x = [], start_of(f)

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        value = f(x)
        return value.detach(), torch.autograd.grad(value, x)[0]

    value, g = at(x)
    epoch = polyak.begin(value + offset)
    for _ in range(gradients):
        if kind == "known":
            epoch = replace(epoch, gap=value, fallen=torch.zeros_like(value))
        squared = g.square().sum()
        long = polyak.is_long(epoch, SHORT) & (kind != "gradient descent")
        trial = x - torch.where(long, polyak.long_step(epoch, squared), eta) * g
        new_value, new_g = at(trial)
        accepted = new_value <= value
        epoch = polyak.settle(epoch, long, new_value - value, accepted)
        if accepted:
            x, value, g = trial, new_value, new_g
        values.append(float(value))
    return values


@pytest.mark.parametrize("f", [quartic, sensing])
@pytest.mark.parametrize(("kind", "bound"), [("known", 0.0), ("unknown", 1.0)])
def test_polyak_steps_turn_the_sublinear_rate_of_a_quartic_ravine_into_a_linear_one(f, kind, bound):
    """Over n gradients, f - f* falls like n^-2 for gradient descent, and by as many digits in every third for ours."""
    n, eta = 1500, 0.1
    plain, ours = (torch.tensor(descend(f, n, eta, k, bound)).log10() for k in ("gradient descent", kind))
    assert 1.5 < plain[n // 10] - plain[-1] < 2.5
    assert ours[-1] < plain[-1] - 4
    digits = ours[n // 3 - 1 :: n // 3].diff()
    assert (digits < -1.5).all(), "a power n^-2 gains 0.6 and 0.35 digits"
    assert digits[1] < 0.5 * digits[0]


def test_the_epoch_rule_acts_on_each_image_alone_and_never_keeps_a_rise():
    gap, squared = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])
    epoch = replace(polyak.begin(gap), count=torch.tensor([5.0, 1.0]))
    long = polyak.is_long(epoch, 5)
    assert long.tolist() == [True, False]
    assert polyak.long_step(epoch, squared)[0] == 0.5
    failed = polyak.settle(epoch, long, torch.tensor([3.0, -1.0]), torch.tensor([False, True]))
    assert failed.gap.tolist() == [0.5, 3.0]
    assert failed.count.tolist() == [0.0, 2.0]
    assert failed.fallen.tolist() == [0.0, 1.0]


@pytest.mark.usefixtures("double")
def test_long_steps_save_gradients_of_the_lower_level(monkeypatch):
    """Against short steps alone, to the same certified accuracy."""
    y = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    energy = Energy(Identity(), TotalVariation(1, weight=0.1, smoothing=0.01).frozen(), y)
    ours = gd_polyak.solve(energy, y, 1e-6)
    monkeypatch.setattr(gd_polyak, "SHORT", 10**9)
    plain = gd_polyak.solve(energy, y, 1e-6)
    assert ours.converged.all()
    assert plain.converged.all()
    assert ours.iterations.sum() < 0.7 * plain.iterations.sum()
    assert (norm(ours.x - plain.x) <= 2e-6).all()


@pytest.mark.usefixtures("double")
def test_the_upper_level_finds_a_known_optimum():
    """x = s y with s = 1 / (1 + exp(t)): the best s is <y, clean> / ||y||^2."""
    y = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    regularizer, batch = batch_of(Tikhonov(0.0), y, 0.3 * y + 0.1)
    method = GdPolyak(accuracy=1e-8)
    state = method.begin(finite_sum=True)
    for k in range(40):
        method.step(k, batch, state)
    best = float((y * batch.loss.target).sum() / y.square().sum())
    assert float(1 / (1 + regularizer.t.detach().exp())) == pytest.approx(best, abs=1e-5)


def test_the_upper_level_never_loses_its_best_point():
    regularizer, batch = toy_problem()
    method = GdPolyak(accuracy=1e-3)
    state = method.begin(finite_sum=True)
    steps = [method.step(k, batch, state) for k in range(20)]
    losses = [float(s.loss.mean()) for s in steps]
    assert all(after <= before * (1 + 1e-4) for before, after in pairwise(losses))
    assert losses[-1] < 0.5 * losses[0]
    assert max(s.step_size for s in steps) > 5 * steps[0].step_size, "a long step paid off"
    # bit-exact resume
    saved, theta = {n: t.clone() for n, t in tensors(state).items()}, parameters(regularizer)
    method.step(20, batch, state)
    other, batch = toy_problem()
    torch.nn.utils.vector_to_parameters(theta, other.parameters())
    restored = method.begin(finite_sum=True)
    restore(restored, saved, torch.device("cpu"))
    method.step(20, batch, restored)
    assert torch.equal(parameters(other), parameters(regularizer))


def test_a_hypergradient_of_zero_moves_nothing_and_spoils_nothing():
    """At an accuracy that the start has already, x is the start, and the loss has no slope that anything was solved
    for."""
    regularizer, batch = toy_problem()
    before = parameters(regularizer)
    method = GdPolyak(accuracy=100.0, short_steps=2)
    state = method.begin(finite_sum=True)
    with pytest.warns(UserWarning, match="a hypergradient is zero"):
        first = method.step(0, batch, state)
    assert first.step_size == 0 and torch.equal(parameters(regularizer), before)
    later = [method.step(k, batch, state) for k in range(1, 7)]
    assert all(torch.isfinite(t).all() for t in tensors(state).values())
    assert later[-1].accuracy < 1e-2 * first.accuracy, "what solved for nothing is asked for less"
    assert later[-1].loss.mean() < 0.5 * first.loss.mean()
