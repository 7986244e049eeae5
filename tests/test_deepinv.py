"""Trained regularizers are deepinv priors."""

from pathlib import Path

import deepinv
import pytest
import torch

from app import assemble, load
from app.evaluation.evaluate import evaluate
from app.evaluation.simulation import simulation
from app.lower import agd
from app.lower.energy import Energy
from app.problem.operators import OperatorError
from app.problem.tasks import denoising
from datasets.image_sets import find_images
from datasets.images import read_image
from datasets.random import TEST_NOISE, generator
from regularizers import NoiseLevelError
from tests.problems import NAMES, regularizers


@pytest.mark.parametrize("name", NAMES)
def test_deepinv_gradient_descent_finds_the_same_minimiser(name):
    """deepinv minimises L2 + prior: with A = I that is our h."""
    torch.set_default_dtype(torch.float64)
    try:
        regularizer = regularizers(1)[name]
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
