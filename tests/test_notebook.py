"""What a notebook does: a regularizer of one's own and a field of experts, on deepinv's MRI, tomography and blur."""

from copy import deepcopy

import deepinv.physics as physics
import pytest
import torch
from torch import nn

from app import FieldOfExperts, Isgd, Problem, Regularizer, fit, hypergradient, load, reconstruct, save
from regularizers.foe.compiled import choice


class Smooth(Regularizer):
    """w sum_i ((x_i - x_j)^2 + s^2)^(1/2) - s over neighbours in a row, of slopes 1 and curvature 1 / s."""

    def __init__(self):
        super().__init__()
        self.log_weight = nn.Parameter(torch.tensor(0.0))

    def value(self, x):
        return self.log_weight.exp() * ((x.diff().square() + 0.1**2).sqrt() - 0.1).sum((1, 2, 3))

    def curvature(self):
        return 0.0, 4 * float(self.log_weight.exp()) / 0.1


PHYSICS = {"mri": physics.MRI(mask=(torch.arange(16) % 3 != 1).float().expand(16, 16)),
           "tomography": physics.Tomography(angles=12, img_width=16, normalize=True),
           "blur": physics.Blur(filter=torch.full((1, 1, 3, 3), 1 / 9), padding="valid")}  # fmt: skip


@pytest.mark.parametrize("family", ["own", "field of experts"])
@pytest.mark.parametrize("name", PHYSICS)
def test_a_notebook(name, family, tmp_path, double):
    channels = 2 if name == "mri" else 1
    made = Smooth() if family == "own" else FieldOfExperts(channels, filters=4, filter_size=3, weight=0.05)
    clean = torch.rand(4, channels, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    problem = Problem(PHYSICS[name], clean=clean, noise_level=0.1, ridge=0.1, dtype=torch.float64)
    if family != "own":
        assert choice.fastest(clean, 3, "charbonnier") is not None
    z = hypergradient(made, problem, accuracy=1e-9)
    step, (first, *_) = 1e-5, made.parameters()
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            first.view(-1)[0] += sign * step
            losses.append(hypergradient(made, problem, accuracy=1e-9).loss.mean())
            first.view(-1)[0] -= sign * step
    torch.testing.assert_close(z.gradient[0].view(-1)[0], (losses[0] - losses[1]) / (2 * step), rtol=1e-4, atol=1e-7)
    losses = [float(s.loss.mean()) for s in fit(made, problem, Isgd(batch_size=4), steps=20)]
    assert losses[-1] < losses[0]
    y = problem.sample(0).y
    found = reconstruct(made, y, PHYSICS[name], ridge=0.1, accuracy=0.05)
    exact = reconstruct(deepcopy(made), y, PHYSICS[name], ridge=0.1, accuracy=1e-9)
    assert found.converged.all() and ((found.x - exact.x).flatten(1).norm(dim=1) <= found.error_bound + 1e-9).all()
    save(made, tmp_path / "mine.safetensors", ridge=0.1)
    again = load(tmp_path / "mine.safetensors", accuracy=0.05)
    torch.testing.assert_close(again(y, PHYSICS[name]), found.x)
