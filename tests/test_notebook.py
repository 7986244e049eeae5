"""What a notebook does: a regularizer of one's own and a field of experts, on deepinv's MRI, tomography and blur."""

import deepinv.physics as physics
import pytest
import torch

from app import FieldOfExperts, Isgd, Problem, Regularizer, fit, hypergradient, load, reconstruct, save
from regularizers.foe.compiled.choice import fastest


class Smooth(Regularizer):
    def __init__(self):
        super().__init__()
        self.log_weight = torch.nn.Parameter(torch.tensor(0.0))

    def value(self, x):
        return self.log_weight.exp() * ((x.diff().square() + 0.01).sqrt() - 0.1).sum((1, 2, 3))

    def curvature(self):
        return 0.0, 40 * float(self.log_weight.exp())


@pytest.mark.parametrize("mine", [True, False])
@pytest.mark.parametrize("measured", ["mri", "tomography", "blur"])
def test_a_notebook(measured, mine, tmp_path, double):
    A = {"mri": physics.MRI(mask=(torch.arange(16) % 3 != 1).float().expand(16, 16)),
         "tomography": physics.Tomography(angles=12, img_width=16, normalize=True, dtype=torch.float64),
         "blur": physics.Blur(filter=torch.full((1, 1, 3, 3), 1 / 9), padding="valid")}[measured]  # fmt: skip
    clean = torch.rand(4, 2 if measured == "mri" else 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    r = Smooth() if mine else FieldOfExperts(clean.shape[1], filters=4, filter_size=3, weight=0.5)
    assert fastest(clean, 3, "charbonnier") is not None  # what a field of experts runs on
    problem = Problem(A, clean=clean, noise_level=0.1, ridge=0.1, dtype=torch.float64)
    z, p, losses = hypergradient(r, problem, accuracy=1e-9).gradient[0], next(r.parameters()), []
    for change in (1e-5, -2e-5):
        p.data += change
        losses.append(hypergradient(r, problem, accuracy=1e-9).loss.mean())
    p.data += 1e-5
    torch.testing.assert_close(z.sum(), (losses[0] - losses[1]) / 2e-5, rtol=1e-4, atol=1e-7)
    steps = [float(step.loss.mean()) for step in fit(r, problem, Isgd(batch_size=4), steps=20)]
    y, exact = problem.sample(0).y, {"ridge": 0.1, "accuracy": 1e-9}
    found, best = reconstruct(r, y, A, ridge=0.1, accuracy=0.05), reconstruct(r, y, A, **exact)
    assert steps[-1] < steps[0] and bool(found.converged.all())
    assert bool(((found.x - best.x).flatten(1).norm(dim=1) <= found.error_bound + 1e-9).all())
    save(r, tmp_path / "mine.safetensors", ridge=0.1)
    torch.testing.assert_close(load(tmp_path / "mine.safetensors", accuracy=0.05)(y, A), found.x)
