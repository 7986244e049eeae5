"""The rescaled regularizer is a member of the family it came from, and learns two numbers. (Its derivatives, bounds and
hypergradients are tested with those of all regularizers.)"""

from dataclasses import replace

import pytest
import torch

from regularizers import Adaptive, FieldOfExperts, RegularizerError, Rescaled
from regularizers.noise_levels import HIGHEST, LOWEST
from tests.problems import perturbed, regularizer_named, rescaled

pytestmark = pytest.mark.usefixtures("double")
A, C = 0.7, 1.6


def member(name):
    """R with the scaled parameters written into it."""
    f = regularizer_named(name).frozen()
    if "mcp" in name:
        return replace(f, weights=f.weights / C, smoothings=f.smoothings / C, scale=A * f.scale)
    return replace(f, weights=A * f.weights / C, smoothings=f.smoothings / C)


@pytest.mark.parametrize(
    "name", ["tv isotropic", "tv anisotropic"] + [f"foe {p} circular" for p in ("charbonnier", "huber", "mcp", "log")]
)
def test_it_is_the_family_with_other_weights_and_smoothings(name):
    f, expected = rescaled(regularizer_named(name), A, C).frozen(), member(name)
    x, v = torch.randn(2, 2, 1, 8, 8)
    torch.testing.assert_close(f.value(x), expected.value(x))
    torch.testing.assert_close(f.gradient(x), expected.gradient(x))
    torch.testing.assert_close(f.hessian(x)(v), expected.hessian(x)(v))
    torch.testing.assert_close(f.curvature(), expected.curvature())
    for mine, theirs in zip(f.curvature_model(x), expected.curvature_model(x), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_only_two_numbers_are_learned_but_the_state_is_whole():
    base = regularizer_named("foe charbonnier circular")
    r = rescaled(base)
    assert [n for n, _ in r.named_parameters()] == ["log_amplitude", "log_contrast"]
    assert {n.removeprefix("base.") for n in r.state_dict()} == set(base.state_dict()) | {
        "log_amplitude", "log_contrast"
    }  # fmt: skip
    assert all(t.dtype == torch.float32 for t in r.float().state_dict().values())


def test_amplify_multiplies_the_regularizer():
    r, x = rescaled(regularizer_named("tv isotropic")), torch.randn(1, 1, 8, 8)
    before = r.fn(x)
    r.amplify(0.25)
    torch.testing.assert_close(r.fn(x), before / 4)


@pytest.mark.parametrize("potential", ["charbonnier", "mcp"])
def test_the_level_of_a_regularizer_for_many_is_learned_too(potential):
    base = perturbed(FieldOfExperts(1, 3, 3, potential, noise_nodes=3, weight=0.1, smoothing=0.05))
    r, (x, q) = Rescaled(base, learns_level=True), torch.randn(2, 2, 1, 8, 8)
    r.put_level(30 / 255)
    torch.testing.assert_close(r.frozen().gradient(x), base.at(30 / 255).frozen().gradient(x))
    assert [n for n, _ in r.named_parameters()] == ["log_amplitude", "log_contrast", "raw_level"]
    assert r.noise_nodes == 0
    r = perturbed(r)
    step = 1e-5

    def values(shift: float) -> tuple[float, float]:
        with torch.no_grad():
            r.raw_level += shift
            found = float((r.frozen().gradient(x) * q).sum()), float(r.frozen().value(x).sum())
            r.raw_level -= shift
        return found

    for n, derivatives in enumerate((r.mixed(x, q), r.slopes(x))):
        difference = (values(step)[n] - values(-step)[n]) / (2 * step)
        assert float(derivatives[2]) == pytest.approx(difference, rel=1e-5)
        assert len(derivatives) == 3


def test_the_learned_level_begins_at_the_nearest_that_is_known():
    r = Rescaled(FieldOfExperts(1, 3, 3, noise_nodes=2), learns_level=True)
    for given, begins in ((0.001, LOWEST), (1.0, HIGHEST), (0.1, 0.1)):
        level = r.put_level(given)
        assert level == pytest.approx(begins, rel=0.05)
        assert LOWEST < level < HIGHEST
    with pytest.raises(RegularizerError, match="rescale its base"):
        Rescaled(Adaptive(FieldOfExperts(1, 3, 3), 4))
    with pytest.raises(RegularizerError, match="for many"):
        Rescaled(FieldOfExperts(1, 3, 3), learns_level=True)
