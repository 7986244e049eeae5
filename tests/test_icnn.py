"""The input-convex network: where it starts, how sharp its bound is, and what it is not for."""

import pytest
import torch

from app.cli import main, resolve_experiment
from app.settings.options import Config, ConfigError
from app.settings.toml import override
from app.training.session import finish
from regularizers import CHARBONNIER, FieldOfExperts, InputConvexNetwork
from tests.problems import dense, perturbed
from tests.test_cli import SMALL, refused


def images(channels: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("channels", [1, 3])
def test_without_its_second_layer_it_starts_as_half_a_field_of_experts(channels):
    """sum_i phi(u_i) = sum_i (u_i^2 + s^2)^(1/2) / 2: the responses of a circular filter of mean zero sum up to 0."""
    network = InputConvexNetwork(channels, 6, 3, weight=0.3, smoothing=0.2)
    with torch.no_grad():
        network.log_weights[1] = -torch.inf
    experts = FieldOfExperts(channels, 6, 3, CHARBONNIER, boundary="circular", weight=0.15, smoothing=0.2)
    torch.testing.assert_close(network.fn(images(channels)), experts.fn(images(channels)))
    torch.testing.assert_close(network.grad(images(channels)), experts.grad(images(channels)))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_curvature_bound_is_at_most_four_times_the_largest_eigenvalue(channels, seed):
    functional = perturbed(InputConvexNetwork(channels, 4, 3, weight=0.3, smoothing=0.2), seed).frozen()
    rho, bound = functional.curvature()
    largest = 0.0
    for scale in (0.0, 0.03, 0.1, 0.3, 1.0):
        product = functional.hessian(images(channels, scale)[:1])
        matrix = dense(lambda v, h=product: torch.cat([h(e[None]) for e in v]), (channels, 8, 8))
        eigenvalues = torch.linalg.eigvalsh(matrix)
        assert eigenvalues[0] > -1e-10
        largest = max(largest, float(eigenvalues[-1]))
    assert rho == 0
    assert bound / 4 < largest <= bound


def test_values_keep_their_digits_in_float32():
    """R of an almost constant image is a small difference of large sums."""
    x = 0.5 + 1e-3 * images(1)
    r = perturbed(InputConvexNetwork(1, 4, 3, weight=0.3, smoothing=0.2))
    with torch.no_grad():
        single, double = r.fn(x), r.double().fn(x.double())
    torch.testing.assert_close(single.double(), double, rtol=2e-2, atol=0)


def test_derivatives_by_parameters_are_found_in_float32_for_few_filters_and_small_images():
    """There torch takes another convolution, which cannot differentiate by filters in every layout."""
    r, x = perturbed(InputConvexNetwork(1, 4, 3, weight=0.3, smoothing=0.2)), images(1)
    single = *r.mixed(x, x), *r.slopes(x)
    r.double()
    for a, b in zip(single, (*r.mixed(x.double(), x.double()), *r.slopes(x.double())), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["upper.relative_accuracy=0.1", "upper.relative_error=proven"], "proven is not for icnn"),
        (["upper.algorithm=maid", "upper.relative_error=proven"], "proven is not for icnn"),
        (["regularizer.noise_nodes=3", "problem.noise_level=[0.1, 0.15]"], "is not read by icnn: it is for tv, foe"),
    ],
)
def test_what_it_cannot_do_is_named(assignments, message):
    with pytest.raises(ConfigError, match=message):
        override(Config(), ["regularizer.name=icnn", *assignments])


def test_a_run_from_training_to_its_report(capsys, tmp_path, photograph):
    run = tmp_path / "run"
    config = resolve_experiment("icnn-denoise", SMALL[1:-1:2])[1]
    assert finish(config, run, tmp_path, True, "") == 0
    assert main(["evaluate", str(run), "--images", str(photograph), "--quiet"]) == 0
    assert main(["report", str(run), "--images", str(photograph)]) == 0
    assert "no filters to draw" in refused(capsys, "figure", "filters", run, "--out", tmp_path / "a.png")
