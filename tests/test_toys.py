"""The examples of GDPolyak and MEHA: what their papers' code printed, rates, and gradients against what they are of."""

import math
from dataclasses import replace

import pytest
import torch

from app.training.verdicts import markdown
from figures import rates
from scripts.toys import claims, moreau, ravines
from scripts.toys.claims import digits, exponent
from scripts.toys.ravines import KINDS, descend


def test_rosenbrock_falls_as_the_code_of_the_paper_printed():
    """Its f after 1000 and 2000 gradients, of gradient descent and of GDPolyak, from the same seed."""
    ravine = replace(ravines.rosenbrock(), epochs=20)
    plain, ours = (descend(ravine, kind) for kind in (KINDS[0], KINDS[2]))
    assert float(plain[999]) == pytest.approx(1.3729e-04, rel=1e-3)
    assert float(plain[1999]) == pytest.approx(3.0073e-05, rel=1e-3)
    assert float(ours[999]) == pytest.approx(1.0109e-07, rel=1e-3)
    assert float(ours[1999]) == pytest.approx(1.0074e-12, rel=1e-3)


@pytest.mark.parametrize(
    "ravine",
    [
        replace(ravines.rosenbrock(), short=50, epochs=30),
        replace(ravines.sensing(10, 1, 2, 60), epochs=10),
        replace(ravines.neurons(20), epochs=12),
    ],
    ids=["rosenbrock", "sensing", "neurons"],
)
def test_gd_polyak_falls_linearly_where_gradient_descent_falls_like_a_power(ravine):
    middle, last = digits(descend(ravine, KINDS[2]))
    assert middle > 1
    assert last > claims.LINEAR * middle
    middle, last = digits(descend(ravine, KINDS[0]))
    assert last < claims.LINEAR * middle


def test_where_the_minimum_is_not_told_it_is_found():
    ravine = replace(ravines.rosenbrock(), epochs=20)
    values = descend(ravine, KINDS[3])
    assert bool((values.diff() <= 0).all()), "rises are taken back"
    assert float(values[-1]) < 0.3 * float(descend(ravine, KINDS[0])[-1])


def test_two_neurons_have_the_loss_of_an_average_over_inputs():
    ravine = ravines.neurons(5)
    draw = torch.Generator().manual_seed(ravines.SEED)
    w1, w2, v = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    z = torch.randn(400_000, 5, generator=draw, dtype=torch.float64)
    squares = ((z @ w1).relu() + (z @ w2).relu() - (z @ v).relu()).square() / 2
    error = float(squares.std()) / len(squares) ** 0.5
    assert float(ravine.f(ravine.start)) == pytest.approx(float(squares.mean()), abs=5 * error)
    assert float(ravine.f(torch.cat([v / 3, 2 * v / 3]))) == pytest.approx(0, abs=1e-12)


def test_what_is_sought_in_sensing_has_no_loss():
    ravine = ravines.sensing(10, 2, 4, 50)
    planted = torch.randn(10, 2, generator=torch.Generator().manual_seed(ravines.SEED), dtype=torch.float64)
    x = torch.cat([planted / planted.norm(), torch.zeros(10, 2, dtype=torch.float64)], 1)
    assert float(ravine.f(x.flatten())) == pytest.approx(0, abs=1e-24)
    assert float(ravine.f(ravine.start)) > 0.1


@pytest.mark.parametrize("name", moreau.EXAMPLES)
def test_the_residual_is_the_gradient_of_the_penalty_with_its_envelope(name):
    """Central differences of F / c + h - v, in which v is a minimum over w that is computed, not differentiated."""
    example = moreau.EXAMPLES[name]()
    draw, sizes = torch.Generator().manual_seed(0), example.sizes(3)
    x = example.x + 0.3 * torch.randn(example.x.shape, generator=draw, dtype=torch.float64)
    u = example.u + 0.3 * torch.randn(example.u.shape, generator=draw, dtype=torch.float64)

    def h(x, u):
        return (x + u - 2).sin().sum() if name == "non-convex" else u[0].square().sum() / 2 - (x * u[0]).sum()

    def upper(x, u):
        if name == "non-convex":
            return (x - 2).square().sum() + (u - 4).square().sum()
        return (x - u[1]).square().sum() / 2 + (u[0] - 1).square().sum() / 2

    def penalty(x, u):
        w = example.proximal(x, u)
        return upper(x, u) / sizes.c + h(x, u) - h(x, w) - (w - u).square().sum() / (2 * sizes.gamma)

    slopes, eps = [], 1e-5
    for which in (0, 1):
        for n in range((x, u)[which].numel()):
            step = [torch.zeros_like(x), torch.zeros_like(u)]
            step[which].view(-1)[n] = eps
            slopes.append(float(penalty(x + step[0], u + step[1]) - penalty(x - step[0], u - step[1])) / (2 * eps))
    expected = math.sqrt(sum(s * s for s in slopes))
    found = moreau.residual(example, x, u, example.proximal(x, u), sizes)
    assert found == pytest.approx(expected, rel=1e-6)


def test_meha_reaches_the_solution_of_the_merely_convex_example_at_the_rates_of_the_theorem():
    example = moreau.proven_steps(1500)
    course = moreau.course(example)
    assert float(course.distance[-1]) < 0.01
    assert exponent(course.residual) > 0.5 - example.p
    assert exponent(course.lag) > 0.5


def test_meha_approaches_the_solution_of_the_non_convex_example_at_the_rates_of_the_theorem():
    example = moreau.non_convex(4000)
    course = moreau.course(example)
    assert float(course.distance[-1]) < 0.55
    assert exponent(course.residual) > 0.5 - example.p
    assert exponent(course.lag) > 0.5


def test_with_the_steps_of_the_public_code_w_lags_and_the_division_by_c_diverges():
    """eta / gamma = 0.002 moves w, while 1 / c_k falls below 1 / gamma: then y_2 runs away from w."""
    course = moreau.course(moreau.public_steps(600))
    assert float(course.distance[-1]) > 5
    assert float(moreau.course(moreau.public_code(600)).distance[-1]) < 0.5


def test_rates_are_read_off_what_falls_like_a_power_and_what_falls_linearly():
    k = torch.arange(1, 30_001, dtype=torch.float64)
    assert exponent(k**-0.7) == pytest.approx(0.7, abs=1e-3)
    middle, last = digits(k**-2)
    assert last / middle == pytest.approx(math.log(3 / 2) / math.log(2), rel=1e-3)
    middle, last = digits(10 ** (-k / 1000))
    assert last == pytest.approx(middle)


def test_the_page_has_one_line_for_each_claim_and_a_verdict():
    k = torch.arange(1, 5001, dtype=torch.float64)
    linear, power = 10 ** (-26.99 * k / 5000), k**-2
    told = dict.fromkeys(KINDS, linear) | {KINDS[0]: power}
    found = claims.of_ravines({"rosenbrock": told})
    assert [c.holds for c in found] == [True, True, True, True]
    lines = markdown(claims.rows(found)).splitlines()
    assert len(lines) == 2 + len(found)
    assert all(line.endswith("| holds |") for line in lines[2:])
    wrong = claims.of_ravines({"rosenbrock": dict.fromkeys(KINDS, power)})
    assert [c.holds for c in wrong] == [False, False, True, False]
    figure = rates.draw({"rosenbrock": told}, "gradients", "f", log_x=True)
    assert len(figure.axes) == 1
    assert len(figure.axes[0].get_lines()) == 2 * len(KINDS), "each method, and its line in the legend"
