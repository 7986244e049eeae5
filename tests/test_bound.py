"""omega is above the true error of the hypergradient, in float64, for every regularizer and many accuracies."""

import pytest
import torch

from app.lower import lbfgs
from app.lower.energy import Energy
from app.lower.solution import NotProvableError
from app.problem.losses import SquaredError
from app.problem.tasks import deblurring, denoising, inpainting
from app.upper.bound import error_bound
from app.upper.hypergradient import hypergradient
from datasets.blur_kernels import gaussian_kernel
from regularizers import CHARBONNIER, FieldOfExperts
from tests.problems import NAMES, regularizer_named

pytestmark = pytest.mark.usefixtures("double")
PROVEN = [name for name in NAMES if name != "icnn"]  # regularizers with a sensitivity
CPU = torch.device("cpu")
PROBLEMS = {
    "denoise": (lambda: denoising(CPU), 0.0),
    "blur": (lambda: deblurring(gaussian_kernel(3, 0.8), CPU, torch.float64), 0.9),
    "inpaint": (lambda: inpainting(0.6, 0, CPU, torch.float64), 0.9),
}


def image_by_image(r, energy, clean, accuracy):
    """Hypergradients of the images alone, and omega."""
    gradients, bounds = [], []
    for b in range(len(clean)):
        one = energy.take(torch.tensor([b]))
        loss = SquaredError(clean[b : b + 1])
        z = hypergradient(r, one, loss, lbfgs.solve, one.backprojection, accuracy=accuracy)
        gradients.append(torch.cat([g.flatten() for g in z.gradient]))
        bounds.append(error_bound(r, one, loss.smoothness, z.lower, z.linear))
    return torch.stack(gradients), torch.cat(bounds)


CASES = [(n, t, 1) for t in ("denoise", "blur") for n in PROVEN] + [(n, "inpaint", 1) for n in PROVEN[::3]]


@pytest.mark.parametrize(("name", "task", "channels"), CASES + [(n, "blur", 3) for n in PROVEN])
def test_omega_is_above_the_error(name, task, channels):
    make, ridge = PROBLEMS[task]
    clean = torch.randn(2, channels, 9, 8, generator=torch.Generator().manual_seed(5))
    operator = make()(clean.shape[1:], (0, 1))
    y = operator.measure(clean, 0.3, [torch.Generator().manual_seed(n) for n in (6, 7)])
    r = regularizer_named(name, channels)
    energy = Energy(operator, r.frozen(), y, ridge)
    exact, _ = image_by_image(r, energy, clean, 1e-11)
    for accuracy in (3.0, 1.0, 1e-1, 1e-2, 1e-4, 1e-6):
        z, omega = image_by_image(r, energy, clean, accuracy)
        assert ((z - exact).norm(dim=1) <= omega).all()
    assert omega.max() < 1e-2 * exact.norm(dim=1).max(), "the bound does not go to zero with the accuracy"


@pytest.mark.parametrize("name", [n for n in PROVEN if "valid" not in n])
def test_the_changes_are_bounded_for_the_worst_of_many_displacements(name):
    """Also along the displacement that moves most: towards the leading right singular vector of the change."""
    r = regularizer_named(name)
    generator = torch.Generator().manual_seed(0)
    x, q = torch.randn(2, 2, 1, 9, 8, generator=generator)
    parameters = tuple(r.parameters())

    for radius in (1e-3, 1e-1, 1.0):
        s = r.sensitivity(x[:1], q[:1], torch.tensor([radius]))
        for _ in range(8):
            d = torch.randn(1, 1, 9, 8, generator=generator)
            d *= radius / d.norm()
            moved, f = x[:1] + d, r.frozen()
            assert (f.hessian(moved)(q[:1]) - f.hessian(x[:1])(q[:1])).norm() <= s.product[0]
            a, b = (torch.cat([g.flatten() for g in r.mixed(p, q[:1])]) for p in (moved, x[:1]))
            assert (a - b).norm() <= s.jacobian_product[0]
            v = torch.randn(1, 1, 9, 8, generator=generator)
            for _ in range(5):  # power iteration on J J^T through autograd
                point = moved.clone().requires_grad_()
                (g,) = torch.autograd.grad(r.fn(point).sum(), point, create_graph=True)
                w = v.clone().requires_grad_()
                jt = torch.autograd.grad((g * w).sum(), parameters, create_graph=True)
                size = torch.cat([t.detach().flatten() for t in jt]).norm()
                assert size <= s.jacobian[0] * v.norm() * (1 + 1e-9)
                (v,) = torch.autograd.grad(sum((t * t.detach()).sum() for t in jt), w)


def test_an_uncertified_lower_level_has_an_infinite_bound():
    r = FieldOfExperts(1, 4, 3, CHARBONNIER, weight=0.1, smoothing=0.05)
    y = torch.randn(1, 1, 8, 8)
    energy = Energy(denoising(CPU)(y.shape[1:], (0,)), r.frozen(), y)
    z = hypergradient(r, energy, SquaredError(y), lambda e, x, a: lbfgs.solve(e, x * torch.nan, a), y, accuracy=1e-3)
    assert error_bound(r, energy, 1.0, z.lower, z.linear).isinf().all()


def test_a_regularizer_of_unknown_sensitivity_is_told_so():
    r, y = regularizer_named("icnn"), torch.randn(1, 1, 8, 8)
    energy = Energy(denoising(CPU)(y.shape[1:], (0,)), r.frozen(), y)
    z = hypergradient(r, energy, SquaredError(y + 1), lbfgs.solve, y, accuracy=1e-3)
    with pytest.raises(NotProvableError, match="InputConvexNetwork"):
        error_bound(r, energy, 1.0, z.lower, z.linear)
