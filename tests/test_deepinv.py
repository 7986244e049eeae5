"""Trained regularizers are deepinv priors."""

import math
import warnings
from pathlib import Path

import deepinv
import numpy as np
import pytest
import torch

from app import Problem, assemble, load, reconstruct
from app.evaluation.evaluate import evaluate
from app.evaluation.simulation import simulation
from app.lower import agd
from app.lower.energy import Energy
from app.problem.operators import OperatorError
from app.problem.problem import ProblemError
from app.problem.tasks import denoising
from datasets.image_sets import find_images
from datasets.images import read_image
from datasets.random import TEST_NOISE, generator
from regularizers import FieldOfExperts, NoiseLevelError, RegularizerError, TotalVariation
from tests.problems import NAMES, regularizer_named


@pytest.mark.parametrize("name", NAMES)
def test_deepinv_gradient_descent_finds_the_same_minimiser(name):
    """deepinv minimises L2 + prior: with A = I that is our h."""
    torch.set_default_dtype(torch.float64)
    try:
        regularizer = regularizer_named(name)
        y = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
        energy = Energy(denoising(torch.device("cpu"))(y.shape[1:], (0, 1)), regularizer.frozen(), y)
        expected = agd.solve(energy, y, 1e-8).x
        mu, largest = energy.bounds
        optimizer = deepinv.optim.GD(
            data_fidelity=deepinv.optim.L2(),
            prior=regularizer,
            stepsize=2 / (mu + largest),
            max_iter=2000,
            early_stop=True,
            thres_conv=1e-9,
        )
        with torch.no_grad():
            found = optimizer(y, deepinv.physics.Denoising())
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_deepinv_test_gives_the_psnr_of_evaluate():
    """A shipped denoiser beside deepinv's own models, on the same measurements; both clip reconstructions to [0, 1]."""
    paths = find_images("builtin:test", Path("data"), False).paths[:1]
    model, config = assemble.load("tv-denoise-grey-25", ["run.device=cpu"])
    rows = list(evaluate(simulation(config, model, Path("data")), paths, False))
    clean = read_image(paths[0], False)
    noise = torch.randn(clean.shape, generator=generator(config.run.seed, TEST_NOISE, 0))
    loader = torch.utils.data.DataLoader([(clean, clean + 25 / 255 * noise)])  # type: ignore[arg-type]
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(25 / 255))
    found = deepinv.test(
        load("tv-denoise-grey-25"), loader, physics, metrics=[deepinv.metric.PSNR(norm_inputs="clip")],
        compare_no_learning=False, show_progress_bar=False, verbose=False,
    )  # fmt: skip
    assert found["PSNR"] == pytest.approx(rows[0].psnr, abs=1e-3)


def test_a_model_for_many_levels_reads_the_level_from_the_physics():
    model, y = load("foe-mcp-denoise-grey-all"), torch.rand(1, 1, 24, 24)
    outputs = [model(y, deepinv.physics.Denoising(deepinv.physics.GaussianNoise(s))) for s in (15 / 255, 50 / 255)]
    assert float(outputs[0].var()) > 1.2 * float(outputs[1].var()), "more noise, smoother"
    with pytest.raises(NoiseLevelError, match="knows noise levels from 5/255 to 50/255"):
        model(y, deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.5)))


def test_a_model_and_measurements_of_different_types_are_told_apart():
    with pytest.raises(OperatorError, match="convert one"):
        load("tv-denoise-grey-25")(torch.rand(1, 1, 8, 8, dtype=torch.float64), deepinv.physics.Denoising())


def test_a_call_may_name_noise_level_and_accuracy():
    y = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    learned, physics = load("foe-mcp-denoise-grey-all"), deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    strong = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.15))
    torch.testing.assert_close(learned(y, physics, noise_level=0.15), learned(y, strong))
    assert (learned(y, physics, noise_level=0.15) - learned(y, physics)).abs().max() > 0.01
    assert float(learned.solution(y, physics, accuracy=1e-3).error_bound) <= 1e-3


def test_images_with_channels_last_in_memory_are_solved_as_others_are():
    physics, y = deepinv.physics.Denoising(), torch.rand(2, 16, 20, 3, generator=torch.Generator().manual_seed(0))
    r = FieldOfExperts(3, 8, 3)
    permuted = reconstruct(r, y.permute(0, 3, 1, 2), physics).x
    assert permuted.is_contiguous()
    torch.testing.assert_close(permuted, reconstruct(r, y.permute(0, 3, 1, 2).contiguous(), physics).x)


def test_a_grey_model_takes_the_channels_of_an_image_apart():
    """Compiled kernels know no bounds: with filters of other channels they would read behind the end."""
    physics, y = deepinv.physics.Denoising(), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name in ("tv-denoise-grey-25", "foe-denoise-grey-25"):
        model = load(name, accuracy=1e-3)
        each = torch.cat([model(y[:, c : c + 1], physics) for c in range(3)], 1)
        torch.testing.assert_close(model(y, physics), each, atol=2e-3, rtol=0)
    with pytest.raises(RegularizerError, match="filters are for images of 3 channels, not 1"):
        load("foe-denoise-color-25")(y[:, :1], physics)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((1, 1, 8, 8)), "float or complex tensor .*, not ndarray"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "not torch.uint8 of the shape"),
        (torch.zeros(0, 1, 8, 8), "a batch .* of at least one"),
        (torch.zeros(1, 8, 8), r"in batches \(B, C, H, W\), not \(8, 8\)"),
        (torch.zeros(1, 8, 9, 3), r"\(8, 9, 3\) looks like \(H, W, C\): permute it"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.complex64), "must be channels"),
        (torch.full((1, 1, 8, 8), torch.nan), "finite"),
    ],
)
def test_what_is_no_batch_of_measurements_is_refused_in_its_words(y, message):
    with pytest.raises(OperatorError, match=message):
        load("tv-denoise-grey-25")(y, deepinv.physics.Denoising())


@pytest.mark.parametrize("wrong", [{"ridge": -1.0}, {"ridge": math.nan}, {"accuracy": 0.0}, {"accuracy": "0.1"}])
def test_numbers_that_nothing_could_be_certified_with_are_refused(wrong):
    with pytest.raises(OperatorError, match="must be at least 0" if "ridge" in wrong else "must be above 0"):
        reconstruct(TotalVariation(1), torch.rand(1, 1, 8, 8), deepinv.physics.Denoising(), **wrong)
    if "ridge" in wrong:
        with pytest.raises(ProblemError, match="must be at least 0"):
            Problem(deepinv.physics.Denoising(), clean=torch.rand(1, 1, 8, 8), noise_level=0.1, **wrong)


def test_images_of_another_scale_are_told():
    model, y = load("tv-denoise-grey-25"), torch.rand(1, 1, 8, 8)
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(25 / 255))
    with warnings.catch_warnings(action="error"):
        model(y, physics)
        model(y / 1000, physics)
    with pytest.warns(UserWarning, match=r"on the scale \[0, 1\], and here its brightest pixel is .* times white"):
        model(255 * y, physics)
