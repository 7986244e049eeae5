"""The lower level: closed form, dense linear algebra, certificates."""

from dataclasses import dataclass, replace

import pytest
import torch

from app.lower import agd, gd_polyak, lbfgs
from app.lower.energy import Energy, bounds
from app.lower.solution import CurvatureError, NotStronglyConvexError, norm
from app.lower.stationary import certified_or_stationary
from app.problem.tasks import deblurring
from regularizers import CHARBONNIER, HUBER, LOG, MCP, FieldOfExperts, TotalVariation
from regularizers.functional import Functional
from tests.problems import NAMES, Identity, MatrixOperator, dense, identity, regularizer_named

pytestmark = pytest.mark.usefixtures("double")
SHAPE = (1, 8, 8)
SOLVERS = pytest.mark.parametrize(
    "solver", [agd.solve, lbfgs.solve, gd_polyak.solve], ids=["agd", "lbfgs", "gd_polyak"]
)


class Quadratic:
    """R(x) = 1/2 <x, W x> per image, W diagonal."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights = weights

    def value(self, x):
        return 0.5 * (self.weights * x.square()).sum((1, 2, 3))

    def gradient(self, x):
        return self.weights * x

    def hessian(self, x):
        return lambda v: self.weights * v

    def curvature_model(self, x):
        stencil = self.weights.mean((2, 3)).view(1, 1, 1, 1, 1).expand(len(x), -1, -1, -1, -1)
        return stencil, self.weights.expand_as(x)

    def take(self, images):
        return self

    def curvature(self):
        return -float(self.weights.min()), float(self.weights.max())


@dataclass(frozen=True)
class Claiming:
    """A functional that claims bounds (rho, L) of its own choice."""

    functional: Functional
    claims: tuple[float, float]

    def __getattr__(self, name):
        return getattr(self.functional, name)

    def curvature(self):
        return self.claims

    def take(self, images):
        return replace(self, functional=self.functional.take(images))


@dataclass(frozen=True)
class Unknown(Claiming):
    """A functional of which preconditioners know nothing."""

    def curvature_model(self, x):
        return None


@dataclass(frozen=True)
class ComplexOperator(MatrixOperator):
    """A complex matrix on real images, of whose A^T A = Re A^H A nothing but the spectrum is known."""

    normal_model = None

    @property
    def gram(self):
        return (self.matrix.mH @ self.matrix).real

    @property
    def spectrum(self):
        return torch.linalg.eigvalsh(self.gram)

    def forward(self, x):
        return x.flatten(1).to(self.matrix.dtype) @ self.matrix.T

    def adjoint(self, y):
        return (y @ self.matrix.conj()).real.reshape(-1, *self.image_shape)


def random_operator(seed: int = 0, shape=SHAPE) -> MatrixOperator:
    n = shape[0] * shape[1] * shape[2]
    return MatrixOperator(torch.randn(n + 5, n, generator=torch.Generator().manual_seed(seed)) / n**0.5, shape)


@SOLVERS
def test_quadratic_energy_is_minimised_in_closed_form(solver):
    weights = torch.linspace(0.1, 30, 64).view(1, 1, 8, 8)
    y = torch.randn(3, 1, 8, 8)
    energy = Energy(identity(SHAPE), Quadratic(weights), y.flatten(1), ridge=0.2)
    solution = solver(energy, torch.zeros(3, 1, 8, 8), 1e-9)
    torch.testing.assert_close(solution.x, y / (1.2 + weights), atol=1e-9, rtol=0)
    assert solution.converged.all()


@SOLVERS
def test_least_squares_agrees_with_dense_linear_algebra(solver):
    operator, y = random_operator(), torch.randn(2, 69)
    energy = Energy(operator, Quadratic(torch.zeros(1, 1, 8, 8)), y, ridge=0.1)
    a = operator.matrix
    expected = torch.linalg.solve(a.T @ a + 0.1 * torch.eye(64), a.T @ y.T).T.view(2, 1, 8, 8)
    torch.testing.assert_close(solver(energy, torch.zeros(2, 1, 8, 8), 1e-9).x, expected, atol=1e-8, rtol=0)


@SOLVERS
def test_complex_measurements_agree_with_dense_linear_algebra(solver):
    """h(x) = 1/2 ||A x - y||^2 + ridge/2 ||x||^2 over real x:  (Re A^H A + ridge) x = Re A^H y."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, 64, generator=generator, dtype=torch.complex128) / 8
    y = torch.randn(2, 40, generator=generator, dtype=torch.complex128)
    operator = ComplexOperator(a, SHAPE)
    energy = Energy(operator, Quadratic(torch.zeros(1, 1, 8, 8)), y, ridge=0.1)
    solution = solver(energy, energy.start, 1e-9)
    expected = torch.linalg.solve(operator.gram + 0.1 * torch.eye(64), (y @ a.conj()).real.T).T.view(2, 1, 8, 8)
    assert solution.converged.all()
    torch.testing.assert_close(solution.x, expected, atol=1e-8, rtol=0)
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    value = energy.value(x)
    assert value.dtype == torch.float64
    torch.testing.assert_close(torch.autograd.grad(value.sum(), x)[0], energy.gradient(x.detach()))
    exact = Energy(operator, energy.functional, operator.forward(x.detach()), ridge=0.1)  # no residual at all
    second = torch.autograd.functional.hessian(lambda flat: exact.value(flat.view(2, 1, 8, 8))[0], x.detach().flatten())
    torch.testing.assert_close(second[:64, :64], operator.gram + 0.1 * torch.eye(64))


@SOLVERS
def test_a_regularizer_of_unknown_curvature_model_is_minimised_all_the_same(solver):
    y, functional = torch.randn(2, 1, 8, 8), regularizer_named("foe charbonnier valid").frozen()
    known = Energy(Identity(), functional, y)
    unknown = Energy(Identity(), Unknown(functional, functional.curvature()), y)
    a, b = solver(known, y, 1e-8), solver(unknown, y, 1e-8)
    assert b.converged.all()
    torch.testing.assert_close(a.x, b.x, atol=2e-8, rtol=0)


@SOLVERS
def test_a_modulus_that_steps_contradict_is_an_error_with_both_numbers(solver):
    weights, y = torch.full((1, 1, 8, 8), 0.2), torch.randn(2, 1, 8, 8)  # h'' = 1.2
    energy = Energy(Identity(), Claiming(Quadratic(weights), (-1.0, 3.0)), y)
    with pytest.raises(CurvatureError, match=r"mu = 2 .* = 1\.2 was"):
        solver(energy, torch.zeros_like(y), 1e-10)
    honest = Energy(Identity(), Quadratic(weights), y)
    assert solver(honest, torch.zeros_like(y), 1e-10).converged.all()


@pytest.mark.parametrize("name", ["tv isotropic", "foe mcp reflect", "foe log circular rescaled", "icnn"])
def test_energy_derivatives_agree_with_autograd(name):
    operator = random_operator()
    energy = Energy(operator, regularizer_named(name).frozen(), torch.randn(2, 69), ridge=0.3)
    x, v = torch.randn(2, 1, 8, 8, requires_grad=True), torch.randn(2, 1, 8, 8)
    (g,) = torch.autograd.grad(energy.value(x).sum(), x, create_graph=True)
    torch.testing.assert_close(energy.gradient(x.detach()), g.detach())
    torch.testing.assert_close(energy.hessian(x.detach())(v), torch.autograd.grad((g * v).sum(), x)[0])


@pytest.mark.parametrize("name", NAMES)
def test_mu_and_L_bound_the_dense_hessian_of_the_energy(name):
    energy = Energy(random_operator(), regularizer_named(name).frozen(), torch.randn(1, 69), ridge=0.9)
    mu, largest = energy.bounds
    hessian = energy.hessian((0.3 * torch.randn(1, 1, 8, 8)).repeat(64, 1, 1, 1))
    eigenvalues = torch.linalg.eigvalsh(dense(hessian, SHAPE))
    assert mu <= eigenvalues[0] + 1e-10
    assert eigenvalues[-1] <= largest + 1e-10


@SOLVERS
@pytest.mark.parametrize("name", NAMES)
def test_the_certificate_is_at_least_the_true_error(name, solver):
    y = torch.randn(4, 1, 8, 8)
    energy = Energy(identity(SHAPE), regularizer_named(name).frozen(), y.flatten(1))
    exact, (mu, _) = agd.solve(energy, y, 1e-11).x, energy.bounds
    for accuracy in (1.0, 1e-2, 1e-5):
        solution = solver(energy, torch.zeros_like(y), accuracy)
        assert solution.converged.all()
        assert (norm(solution.x - exact) <= solution.error_bound + 1e-11).all()
        assert (solution.error_bound <= accuracy).all()
        residual = norm(energy.gradient(solution.x))
        torch.testing.assert_close(solution.error_bound, residual / mu, atol=1e-12, rtol=1e-9)


@SOLVERS
def test_a_batch_changes_no_image(solver):
    """Images of very different difficulty, one of which starts converged."""
    y = torch.randn(5, 1, 8, 8) * torch.tensor([1e-3, 0.1, 1.0, 10.0, 0.0])[:, None, None, None]
    functional = regularizer_named("foe mcp valid").frozen()
    together = solver(Energy(identity(SHAPE), functional, y.flatten(1)), y, 1e-4)
    assert len(set(together.iterations.tolist())) > 1
    for i in range(5):
        alone = solver(Energy(identity(SHAPE), functional, y[i : i + 1].flatten(1)), y[i : i + 1], 1e-4)
        assert alone.iterations[0] == together.iterations[i]
        torch.testing.assert_close(alone.x[0], together.x[i], atol=1e-10, rtol=0)


@SOLVERS
@pytest.mark.parametrize("idle", [0.0, torch.inf])
def test_an_image_that_is_done_stays_as_it_is_however_late_it_is_taken_out(solver, idle, monkeypatch):
    """The largest of three images cannot be as accurate in float32: it stalls, and the others go on."""
    y = (torch.rand(3, 1, 16, 16) * torch.tensor([1.0, 1e4, 0.1])[:, None, None, None]).float()
    functional = FieldOfExperts(1, 4, 3, CHARBONNIER, weight=0.05, smoothing=1e-3).float().frozen()
    usual = solver(Energy(Identity(), functional, y), y, 1e-3)
    monkeypatch.setattr("app.lower.iterate.IDLE", idle)
    found = solver(Energy(Identity(), functional, y), y, 1e-3)
    assert found.converged.tolist() == [True, False, True]
    done = found.converged  # the sums of batched products depend on the number of images, by rounding
    assert ((found.iterations - usual.iterations)[done].abs() <= 2).all()
    assert (found.error_bound > usual.error_bound / 10)[done].all(), "nobody went on with them"
    torch.testing.assert_close(found.x[done], usual.x[done], atol=1e-4, rtol=0)


def test_momentum_reaches_the_rate_of_strongly_convex_acceleration():
    """Condition 1000 to 1e-6: gradient descent needs about 10^4 gradients, sqrt(kappa) log(1 / eps) is about 500."""
    weights = torch.logspace(-3, 0, 64).view(1, 1, 8, 8)
    energy = Energy(MatrixOperator(torch.zeros(1, 64), SHAPE), Quadratic(weights), torch.zeros(1, 1))
    solution = agd.solve(energy, torch.ones(1, 1, 8, 8), 1e-6)
    assert solution.converged.all()
    assert solution.iterations.max() < 800


@SOLVERS
def test_accuracy_beyond_the_floating_point_type_ends_unconverged_with_an_honest_bound(solver):
    y = torch.rand(1, 1, 64, 64).float()
    regularizer = FieldOfExperts(1, 4, 3, CHARBONNIER, weight=0.05, smoothing=0.01).float()
    energy = Energy(Identity(), regularizer.frozen(), y)
    solution = solver(energy, y, 1e-12)
    assert not solution.converged.any()
    assert 1e-12 < solution.error_bound[0] < 1e-3
    assert solution.iterations[0] < 5000


@SOLVERS
def test_an_energy_without_strong_convexity_is_refused(solver):
    regularizer = FieldOfExperts(1, 4, 3, MCP, weak_convexity=0.5, weight=0.5, smoothing=0.1)
    operator = MatrixOperator(torch.zeros(64, 64), SHAPE)
    energy = Energy(operator, regularizer.frozen(), torch.zeros(1, 64))
    with pytest.raises(NotStronglyConvexError, match=r"ridge above 0\.5"):
        solver(energy, torch.zeros(1, 1, 8, 8), 0.1)


NON_CONVEX = {
    "a field of experts that outweighs the data": (Identity(), LOG, 3.0, 0.0),
    "missing pixels": (MatrixOperator(torch.eye(64, dtype=torch.float64)[:40], SHAPE), LOG, 0.5, 0.01),
    "convex, but not strongly": (MatrixOperator(torch.eye(64, dtype=torch.float64)[:40], SHAPE), HUBER, 0.5, 0.0),
}


@SOLVERS
@pytest.mark.parametrize("case", NON_CONVEX)
def test_without_strong_convexity_a_stationary_point_is_found_and_nothing_is_certified(case, solver):
    operator, potential, weight, ridge = NON_CONVEX[case]
    functional = FieldOfExperts(1, 4, 3, potential, weight=weight, smoothing=0.3).frozen()
    start = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    energy = Energy(operator, functional, operator.forward(start), ridge)
    assert energy.bounds[0] <= 0
    solution = certified_or_stationary(solver)(energy, 2 * start, 1e-3)
    modulus = (operator.lambda_min + ridge) or 1.0
    assert (norm(energy.gradient(solution.x)) <= 1e-3 * modulus).all()
    assert (energy.value(solution.x) < energy.value(2 * start)).all()
    assert solution.error_bound.isinf().all()
    assert not solution.converged.any()
    assert solution.iterations.max() < 1000


@SOLVERS
def test_with_strong_convexity_the_certificate_stays(solver):
    y = torch.randn(2, 1, 8, 8)
    energy = Energy(Identity(), regularizer_named("foe log valid").frozen(), y)
    a, b = solver(energy, y, 1e-4), certified_or_stationary(solver)(energy, y, 1e-4)
    assert torch.equal(a.x, b.x)
    assert b.converged.all()


@SOLVERS
def test_the_same_point_is_found_from_any_start(solver):
    y = torch.randn(1, 1, 8, 8)
    energy = Energy(identity(SHAPE), TotalVariation(1, weight=0.3, smoothing=0.01).frozen(), y.flatten(1))
    a, b = solver(energy, y, 1e-8).x, solver(energy, 100 * torch.randn(1, 1, 8, 8), 1e-8).x
    torch.testing.assert_close(a, b, atol=2e-8, rtol=0)


def test_a_modulus_that_rounding_makes_is_none():
    """A blur that loses a frequency: its smallest |k^|^2 is 0 up to rounding, and nothing is strongly convex."""
    operator = deblurring(torch.full((2, 2), 0.25), torch.device("cpu"), torch.float64)(torch.Size((1, 24, 24)), (0,))
    functional = FieldOfExperts(1, 4, 3, CHARBONNIER).frozen()
    assert bounds(operator, functional, 0.0)[0] == 0
    assert bounds(operator, functional, 1e-6)[0] == pytest.approx(1e-6)
