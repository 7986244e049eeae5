"""HOAG: known optima, the rule of its step size, exact resume."""

from functools import partial

import pytest
import torch

from app.lower import agd, lbfgs
from app.upper import schedules
from app.upper.hypergradient import hypergradient
from app.upper.methods.hoag import EXPONENTIAL, LOWER, RAISE, Hoag, adapted
from app.upper.state import restore, tensors
from tests.test_hypergradient import Tikhonov
from tests.test_maid import WeightedTikhonov, quadratic_problem
from tests.test_training import parameters, toy_problem


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "tolerance", [schedules.polynomial(2), schedules.polynomial(3), schedules.exponential(EXPONENTIAL)]
)
@pytest.mark.parametrize("make", [lambda: Tikhonov(0.0), lambda: WeightedTikhonov(4)], ids=["scalar", "vector"])
def test_the_known_optimum_of_a_quadratic_problem_is_found(make, tolerance):
    regularizer = make()
    batch, optimum = quadratic_problem(regularizer)
    method = Hoag(solve=agd.solve, schedule=tolerance)
    state = method.begin(finite_sum=True)
    for k in range(150):
        method.step(k, batch, state)
    torch.testing.assert_close(regularizer.t.detach(), optimum, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("low", "factor"), [(1.1, RAISE), (float("nan"), RAISE), (0.9, LOWER), (0.995, 1.0)])
def test_the_lipschitz_estimate_follows_the_losses(low, factor):
    """From a loss of at most 1, after a step of length 0.1 with L = 2: enough is a decrease of 0.01."""
    assert adapted(2.0, low, 1.0, 0.1) == 2.0 * factor


@pytest.mark.usefixtures("double")
def test_a_step_that_raises_the_loss_is_taken_back_and_halved():
    regularizer = Tikhonov(0.0)
    batch, _ = quadratic_problem(regularizer)
    y = batch.energy().y
    z = hypergradient(regularizer, batch.energy(), batch.loss, solve=agd.solve, start=y, accuracy=1e-9)
    method = Hoag(solve=agd.solve, schedule=schedules.constant(), step_size=1e3, accuracy=1e-9)
    state = method.begin(finite_sum=True)
    method.step(0, batch, state)
    step = method.step(1, batch, state)
    assert step.step_size == 500.0
    torch.testing.assert_close(regularizer.t.detach(), -500 * z.gradient[0], rtol=1e-6, atol=1e-9)


def test_a_restored_state_continues_bit_by_bit_on_the_way_down():
    regularizer, batch = toy_problem()
    method = Hoag()
    state = method.begin(finite_sum=True)
    losses = [float(method.step(k, batch, state).loss.mean()) for k in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    saved, theta = {n: t.clone() for n, t in tensors(state).items()}, parameters(regularizer)
    method.step(8, batch, state)
    other, batch = toy_problem()
    torch.nn.utils.vector_to_parameters(theta, other.parameters())
    restored = method.begin(finite_sum=True)
    restore(restored, saved, torch.device("cpu"))
    method.step(8, batch, restored)
    assert torch.equal(parameters(other), parameters(regularizer))


@pytest.mark.usefixtures("double")
def test_a_first_step_that_is_far_too_long_does_not_spoil_the_accuracy_of_later_ones():
    """Of a hopeless theta nothing is reached, and that says nothing about what can be reached elsewhere."""
    regularizer, batch = toy_problem()
    method = Hoag(step_size=20.0, solve=partial(lbfgs.solve, max_iterations=300))
    state = method.begin(finite_sum=True)
    losses = [float(method.step(k, batch, state).loss.mean()) for k in range(40)]
    assert parameters(regularizer).isfinite().all()
    assert losses[-1] < 0.5 * losses[0]
