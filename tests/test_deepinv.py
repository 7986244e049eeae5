"""Trained regularizers are deepinv priors."""

import deepinv
import pytest
import torch

from app.lower import agd
from app.lower.energy import Energy
from app.problem.tasks import denoising
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
