"""The hypergradient: closed form -> dense linear algebra -> central differences through the whole solve."""

import pytest
import torch

from app.lower import agd, lbfgs
from app.lower.energy import Energy
from app.lower.solution import CurvatureError
from app.lower.stationary import certified_or_stationary
from app.problem.borders import with_border
from app.problem.losses import SquaredError
from app.problem.tasks import deblurring, denoising, inpainting, super_resolution
from app.upper.hypergradient import hypergradient
from datasets.blur_kernels import antialias_kernel, gaussian_kernel
from regularizers import Regularizer
from tests.problems import NAMES, Identity, dense, regularizer_named

pytestmark = pytest.mark.usefixtures("double")
CPU = torch.device("cpu")


class Tikhonov(Regularizer):
    """R(x) = exp(t) / 2 ||x||^2, so x* = y / (1 + exp(t)) and everything is known."""

    def __init__(self, t: float) -> None:
        super().__init__()
        self.t = torch.nn.Parameter(torch.tensor(t))

    def functional(self):
        return _TikhonovFunctional(self.t.exp())


class _TikhonovFunctional:
    def __init__(self, weight):
        self.weight = weight
        self.natural = (weight,)

    def value(self, x):
        return 0.5 * self.weight * x.square().sum((1, 2, 3))

    def gradient(self, x):
        return self.weight * x

    def hessian(self, x):
        return lambda v: self.weight * v

    def curvature_model(self, x):
        return x.new_zeros(len(x), 1, 1, 1, 1), torch.zeros_like(x)

    def mixed(self, x, q):
        return ((x * q).sum(),)

    def slopes(self, x):
        return (0.5 * x.square().sum(),)

    def take(self, images):
        return self

    def curvature(self):
        return -float(self.weight), float(self.weight)


def run(regularizer, operator, y, clean, accuracy, ridge=0.0):
    energy = Energy(operator, regularizer.frozen(), y, ridge)
    start = energy.backprojection
    return hypergradient(regularizer, energy, SquaredError(clean), lbfgs.solve, start, accuracy=accuracy)


def test_closed_form():
    """f(t) = mean_b 1/2 ||y_b / (1 + e^t) - clean_b||^2;  f' = -mean_b <x_b - clean_b, y_b> e^t / (1 + e^t)^2."""
    y, clean = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    t = torch.tensor(0.4)
    x = y / (1 + t.exp())
    expected = -((x - clean) * y).sum((1, 2, 3)).mean() * t.exp() / (1 + t.exp()) ** 2
    z = run(Tikhonov(0.4), Identity(), y, clean, 1e-10)
    torch.testing.assert_close(z.gradient[0], expected)
    torch.testing.assert_close(z.loss, 0.5 * (x - clean).square().sum((1, 2, 3)))


def bordered(kernel):
    return with_border("valid", deblurring(kernel, CPU, torch.float64), (3, 3), CPU)


PROBLEMS = {
    "denoise": (lambda: denoising(CPU), 0.0),
    "blur": (lambda: deblurring(gaussian_kernel(3, 0.8), CPU, torch.float64), 0.9),
    "inpaint": (lambda: inpainting(0.6, 0, CPU, torch.float64), 0.9),
    "superres": (lambda: super_resolution(2, antialias_kernel(2, 0.3), CPU, torch.float64), 0.9),
    "unknown border": (lambda: bordered(gaussian_kernel(3, 0.8)), 0.9),
}


# Rescaled regularizers, super-resolution and borders meet one another and one of each kind, to save time.
SOME = ("tv isotropic", "foe charbonnier valid", "foe mcp circular rescaled")
CASES = [
    (n, t)
    for n in NAMES
    for t in PROBLEMS
    if (t in ("denoise", "blur", "inpaint") and "rescaled" not in n) or n in SOME
]
CASES += [(n, "blur") for n in NAMES if "rescaled" in n and n not in SOME]
COLOUR = [(n, t) for n, t in CASES if t == "blur" or n in SOME]


def problem(name: str, channels: int):
    make, ridge = PROBLEMS[name]
    generator = torch.Generator().manual_seed(5)
    clean = torch.randn(2, channels, 8, 8, generator=generator)
    operator = make()(clean.shape[1:], (0, 1))
    y = operator.measure(clean, 0.3, [generator, generator])
    return operator, y, clean, ridge


@pytest.mark.parametrize(("name", "task", "channels"), [(*c, 1) for c in CASES] + [(*c, 3) for c in COLOUR])
def test_dense_linear_algebra(name, task, channels):
    """-J^T H^-1 (x - clean) with H and J assembled entry by entry from autograd."""
    operator, y, clean, ridge = problem(task, channels)
    r = regularizer_named(name, channels)
    z = run(r, operator, y, clean, 1e-10, ridge)
    energy = Energy(operator, r.frozen(), y, ridge)
    x = agd.solve(energy, energy.backprojection, 1e-10).x
    parameters = tuple(r.parameters())
    expected = [torch.zeros_like(p) for p in parameters]
    for b in range(len(x)):
        part = operator.take(torch.tensor([b]))
        h = part.normal
        matrix = dense(lambda v, h=h, part=part: torch.cat([h(e[None]) for e in v]), tuple(x.shape[1:]))
        copies = x[b].repeat(len(matrix), 1, 1, 1).requires_grad_()  # copy i gives row i of the Hessian
        (g,) = torch.autograd.grad(r.fn(copies).sum(), copies, create_graph=True)
        rows = torch.autograd.grad(g.flatten(1).diagonal().sum(), copies, retain_graph=True)[0].flatten(1)
        matrix = matrix + rows + ridge * torch.eye(len(matrix))
        q = torch.linalg.solve(matrix, (x[b] - clean[b]).flatten())
        jtq = torch.autograd.grad((g[0].flatten() * q).sum(), parameters)
        for e, j in zip(expected, jtq, strict=True):
            e -= j / len(x)
    for a, e in zip(z.gradient, expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-7, rtol=1e-6)


MANY_LEVELS = [name for name in NAMES if "noise levels" in name]


# Charbonnier and tv are smooth; the spline potentials have kinks in phi'', where central differences need care.
@pytest.mark.parametrize(
    "name",
    [
        "tv isotropic",
        "tv anisotropic",
        "foe charbonnier valid",
        "foe mcp valid",
        "foe mcp circular rescaled",
        *MANY_LEVELS,
    ],
)
@pytest.mark.parametrize("task", PROBLEMS)
def test_central_differences_through_the_whole_solve(name, task):
    operator, y, clean, ridge = problem(task, 1)
    r = regularizer_named(name)
    z = run(r, operator, y, clean, 1e-11, ridge)
    parameters = list(r.parameters())
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(p.shape, generator=generator) for p in parameters]
    expected = sum((g * d).sum() for g, d in zip(z.gradient, direction, strict=True))
    step, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
        values.append(run(r, operator, y, clean, 1e-11, ridge).loss.mean())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p -= sign * step * d
    torch.testing.assert_close((values[0] - values[1]) / (2 * step), expected, rtol=2e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["foe mcp valid", "foe mcp circular rescaled", "foe log reflect"])
def test_central_differences_where_nothing_proves_convexity(name):
    """mu < 0, but around this stationary point h curves upwards in every direction."""
    r = regularizer_named(name)
    clean = 2 * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    operator = inpainting(0.9, 0, CPU, torch.float64)(clean.shape[1:], (0, 1))
    y, loss, ridge = operator.forward(clean), SquaredError(clean), 0.01
    solve = certified_or_stationary(lbfgs.solve)

    def at_present(start):
        energy = Energy(operator, r.frozen(), y, ridge)
        assert energy.bounds[0] < 0
        return energy, hypergradient(r, energy, loss, solve, start, accuracy=1e-11)

    energy, z = at_present(operator.adjoint(y))
    assert z.lower.error_bound.isinf().all()
    assert not z.lower.converged.any()
    assert z.linear.converged.all()
    for b in range(2):
        one = energy.take(torch.tensor([b])).hessian(z.lower.x[b : b + 1])
        matrix = dense(lambda v, one=one: torch.cat([one(e[None]) for e in v]), (1, 8, 8))
        assert torch.linalg.eigvalsh(matrix)[0] > 0
    parameters, step, losses = list(r.parameters()), 1e-6, []
    direction = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3)) for p in parameters]
    expected = sum((g * d).sum() for g, d in zip(z.gradient, direction, strict=True))
    for move in (step, -2 * step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += move * d
        losses.append(at_present(z.lower.x)[1].loss.mean())
    torch.testing.assert_close((losses[0] - losses[1]) / (2 * step), expected, rtol=1e-3, atol=1e-8)


def test_the_error_shrinks_with_the_accuracy():
    operator, y, clean, ridge = problem("denoise", 1)
    r = regularizer_named("foe charbonnier valid")
    exact = torch.cat([g.flatten() for g in run(r, operator, y, clean, 1e-11, ridge).gradient])
    errors = []
    for accuracy in (1e-1, 1e-2, 1e-3, 1e-4):
        z = run(r, operator, y, clean, accuracy, ridge)
        errors.append(float((torch.cat([g.flatten() for g in z.gradient]) - exact).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2 * errors[0]


def test_the_batch_gradient_is_the_mean_of_the_images_gradients():
    operator, y, clean, _ = problem("denoise", 1)
    r = regularizer_named("foe charbonnier valid")
    together = run(r, operator, y, clean, 1e-10)
    alone = [run(r, operator, y[b : b + 1], clean[b : b + 1], 1e-10) for b in range(2)]
    for a, *parts in zip(together.gradient, *(z.gradient for z in alone), strict=True):
        torch.testing.assert_close(a, sum(parts) / 2)


class Boasting(Tikhonov):
    """R(x) = exp(t) / 2 ||x||^2 with bounds (rho, L) of its own choice."""

    def __init__(self, t: float, claims: tuple[float, float]) -> None:
        super().__init__(t)
        self.claims = claims

    def functional(self):
        honest = _TikhonovFunctional(self.t.exp())
        honest.curvature = lambda: self.claims
        return honest


def test_bounds_that_conjugate_gradients_contradict_are_an_error_with_both_numbers():
    """h'' = 1 + 1 = 2 everywhere."""
    y, clean = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    at_the_minimiser = lambda energy, start, accuracy: lbfgs.solve(replace_claims(energy), start, accuracy)  # noqa: E731
    for claims, message in (((-1.5, 3.0), r"mu = 2\.5 .* = 2 was"), ((-1.0, 0.5), r"L = 1\.5 .* = 2 was")):
        r = Boasting(0.0, claims)
        energy = Energy(Identity(), r.frozen(), y)
        with pytest.raises(CurvatureError, match=message):
            hypergradient(r, energy, SquaredError(clean), at_the_minimiser, y, accuracy=1e-8)


def replace_claims(energy: Energy) -> Energy:
    """The same energy with honest bounds, which the lower level needs here."""
    return Energy(energy.operator, Tikhonov(0.0).frozen(), energy.y)


def test_an_operator_whose_norm_is_an_estimate_claims_no_largest_curvature():
    class Estimated(Identity):
        norm_squared, norm_proven = 0.3, False

    y = torch.randn(2, 1, 4, 4)
    r = Boasting(0.0, (-1.0, 1.0))
    energy = Energy(Estimated(), r.frozen(), y)
    assert energy.bounds[1] < 2
    z = hypergradient(r, energy, SquaredError(0.5 * y + 1), lbfgs.solve, y, accuracy=1e-8)
    torch.testing.assert_close(z.linear.largest, 2 * torch.ones(2))


def test_without_a_curvature_model_conjugate_gradients_run_plain():
    operator, y, clean, ridge = problem("blur", 1)
    r = regularizer_named("foe charbonnier valid")
    expected = run(r, operator, y, clean, 1e-9, ridge)
    functional = r.frozen()
    unknown = type("Unknown", (), {"__getattr__": lambda self, name: getattr(functional, name)})()
    unknown.curvature_model = lambda x: None
    unknown.take = lambda images: unknown
    energy = Energy(operator, unknown, y, ridge)
    z = hypergradient(r, energy, SquaredError(clean), lbfgs.solve, energy.start, accuracy=1e-9)
    assert (z.computations == z.lower.iterations + z.linear.iterations).all()
    for a, b in zip(z.gradient, expected.gradient, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
