"""`check` finds what is wrong, says where, and finds nothing where nothing is wrong."""

from copy import deepcopy

import pytest
import torch
from deepinv.physics import MRI, Blur, BlurFFT, Denoising
from torch import Tensor

import app.checking.curvature
import app.checking.derivatives
import app.lower.certificate
import app.lower.energy
import app.upper.hypergradient
import regularizers.foe.functional
import regularizers.tv
from app import Adaptive, FieldOfExperts, InputConvexNetwork, Problem, Regularizer, Rescaled, TotalVariation, check
from app.checking.finding import Finding, table
from app.cli import main
from app.lower.energy import Hessian
from app.problem.operators import LinearOperator
from regularizers.foe.compiled.choice import fastest
from regularizers.foe.compiled.cpu import CpuKernel
from regularizers.tv import TotalVariationFunctional
from tests.problems import perturbed

GENERATOR = torch.Generator().manual_seed(0)
CLEAN = torch.rand(1, 1, 9, 8, generator=GENERATOR, dtype=torch.float64)
KERNEL = torch.rand(1, 1, 3, 3, generator=GENERATOR, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _few_points(monkeypatch):
    monkeypatch.setattr(app.checking.curvature, "HEIGHTS", (0.1, 1.0))
    monkeypatch.setattr(app.checking.curvature, "WORST", 1)


def problem(physics=None, clean: Tensor = CLEAN, ridge: float = 0.0) -> Problem:
    return Problem(physics or Denoising(), clean=clean, noise_level=0.1, ridge=ridge, dtype=clean.dtype)


def blurred(ridge: float = 0.2) -> Problem:
    return problem(BlurFFT((1, 9, 8), filter=KERNEL / KERNEL.sum()), ridge=ridge)


def field(potential: str = "charbonnier", channels: int = 1) -> FieldOfExperts:
    return perturbed(FieldOfExperts(channels, 3, 3, potential, weight=0.1, smoothing=0.05))  # type: ignore[return-value]


def tv() -> TotalVariation:
    return TotalVariation(1, weight=0.05, smoothing=0.05)


def failed(found: tuple[Finding, ...]) -> set[str]:
    return {f.what for f in found if not f.passed}


HEALTHY = {
    "tv": (tv, blurred),
    "tv of complex images": (lambda: TotalVariation(2), lambda: problem(
        MRI(mask=torch.ones(1, 8).double()), torch.rand(1, 2, 9, 8).double())),
    "foe charbonnier": (field, blurred),
    "foe huber, in colour": (lambda: field("huber", 3), lambda: problem(clean=torch.rand(1, 3, 9, 8))),
    "foe mcp, rescaled": (lambda: Rescaled(field("mcp")), lambda: problem(clean=CLEAN.float())),
    "foe log": (lambda: field("log"), lambda: problem(ridge=1.0)),
    "wcrr": (lambda: field("weak_spline"), problem),
    "adaptive": (lambda: perturbed(Adaptive(field("mcp"), 2), size=0.05), problem),
    "icnn": (lambda: InputConvexNetwork(1, 3, 3, weight=0.1, smoothing=0.1), problem),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_what_is_right(name):
    regularizer, posed = (make() for make in HEALTHY[name])
    before = deepcopy(regularizer.state_dict())
    found = check(regularizer, posed)
    assert not failed(found), table(found)
    assert {f.what.startswith("guide: ") for f in found} == ({True, False} if name == "adaptive" else {False})
    after = regularizer.state_dict()
    assert all(torch.equal(after[n].to(t.dtype), t) and after[n].dtype == t.dtype for n, t in before.items())


def _wrong_sign(patch):
    right = TotalVariationFunctional.mixed
    patch.setattr(TotalVariationFunctional, "mixed", lambda *a: (right(*a)[0], -right(*a)[1]))


def _other_padding(patch):
    other = Blur(filter=KERNEL / KERNEL.sum(), padding="reflect")
    patch.setattr(LinearOperator, "adjoint", lambda self, y: other.A_adjoint(y))


def _large_modulus(patch):
    right = app.lower.energy.bounds
    patch.setattr(app.lower.energy, "bounds", lambda *a: (1.1 * right(*a)[0], right(*a)[1]))


def _missing_factor(patch):
    patch.setattr(regularizers.tv, "NORM_SQUARED", 4)


def _other_potential(patch):
    patch.setattr(regularizers.foe.functional, "fastest", lambda x, size, *_: fastest(x, size, "huber"))


def _stale_kernel(patch):
    right = CpuKernel.gradient
    patch.setattr(CpuKernel, "gradient", lambda self, bank, x: (1.001 if x.dtype == torch.float32 else 1.0) * right(
        self, bank, x))  # fmt: skip


def _no_ridge(patch):
    patch.setattr(Hessian, "__call__", lambda self, v: self.curvature(v).add_(self.energy.operator.normal(v)))


def _inexact_gradient(patch):
    right = TotalVariationFunctional.gradient
    patch.setattr(TotalVariationFunctional, "gradient", lambda *a: 1.001 * right(*a))


def _small_bound(patch):
    right = app.lower.certificate.proven_bound
    patch.setattr(app.lower.certificate, "proven_bound", lambda *a: right(*a) / 1.2)


def _loose_adjoint(patch):
    right = app.upper.hypergradient.conjugate_gradient
    patch.setattr(app.upper.hypergradient, "conjugate_gradient", lambda h, b, tolerance, *a: right(
        h, b, 20 * tolerance, *a))  # fmt: skip


def _no_weight(patch):
    right = TotalVariationFunctional.slopes
    patch.setattr(TotalVariationFunctional, "slopes", lambda self, x: (
        right(self, x)[0], right(self, x)[1] / self.weights))  # fmt: skip


MIXED = {"mixed derivative of R: autograd", "mixed derivative of R: differences"}
GRADIENT = {"gradient of R: autograd", "gradient of R: differences"}
PRODUCT = {"Hessian product of R: autograd", "Hessian product of R: differences"}
COMPILED = {"compiled kernel in float32: torch", "compiled kernel in float64: torch"}
EXACT, LOSSES, TERMS = "stated bound: exact bound", "hypergradient: differences of the loss", "h: its terms"

FAULTS = {
    "wrong sign in the mixed derivative": (_wrong_sign, tv, MIXED | {LOSSES}),
    "adjoint of another padding": (_other_padding, tv, {
        "A in float64: <A x, y> = <x, A^T y>", "A in float64: that of the solver", EXACT, TERMS}),
    "mu too large by a tenth": (_large_modulus, tv, {"mu: smallest curvature of h"}),
    "factor missing in L": (_missing_factor, tv, {"L: largest curvature of h"}),
    "compiled for another potential": (_other_potential, field, GRADIENT | PRODUCT | MIXED | COMPILED | {EXACT, TERMS}),
    "compiled for other weights in one precision": (_stale_kernel, field, {"compiled kernel in float32: torch"}),
    "ridge missing in the Hessian": (_no_ridge, tv, {TERMS, "mu: smallest curvature of h", LOSSES}),
    "gradient wrong by a thousandth": (_inexact_gradient, tv, GRADIENT | {TERMS}),
    "stated bound too small": (_small_bound, tv, {EXACT}),
    "loose adjoint solve": (_loose_adjoint, tv, {"hypergradient: residual of its solve"}),
    "weight missing in the slopes": (_no_weight, tv, {"slopes of R: autograd", "slopes of R: differences"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_in_the_rows_it_belongs_to(name, monkeypatch):
    plant, regularizer, rows = FAULTS[name]
    posed = blurred()
    posed.operator()  # a physics with this adjoint would be refused here
    plant(monkeypatch)
    found = check(regularizer(), posed)
    assert failed(found) == rows, table(found)


class Hill(Regularizer):
    """(x^2 + 0.01)^(1/2) of differences, whose curvature is up to 40."""

    def __init__(self, claimed: float, single: bool = False) -> None:
        super().__init__()
        self.claimed, self.single = claimed, single
        self.log_weight = torch.nn.Parameter(torch.tensor(0.0))

    def value(self, x: Tensor) -> Tensor:
        if self.single and x.dtype != torch.float32:
            raise TypeError("float32 only")
        return self.log_weight.exp() * ((x.diff().square() + 0.01).sqrt() - 0.1).sum((1, 2, 3))

    def curvature(self) -> tuple[float, float]:
        return 0.0, self.claimed * float(self.log_weight.exp())


def test_a_regularizer_of_ones_own_is_looked_at_and_what_raises_has_failed():
    assert failed(check(Hill(10.0), blurred())) == {"L: largest curvature of h"}
    with pytest.warns(UserWarning, match="nothing is certified"):
        found = {f.what: f for f in check(Hill(40.0, single=True), problem(clean=CLEAN.float()))}
    assert not found["gradient of R: autograd"].passed
    assert found["gradient of R: autograd"].note == "TypeError: float32 only"


def test_without_a_compiler_there_is_a_note_and_no_failure(monkeypatch):
    for module in (regularizers.foe.functional, app.checking.derivatives):
        monkeypatch.setattr(module, "fastest", lambda *_: None)
    found = check(field(), problem())
    assert not failed(found)
    assert {f.note for f in found if f.what in COMPILED} == {"not compiled: torch alone computes"}


def test_what_is_not_certified_is_not_measured():
    found = {f.what: f for f in check(Rescaled(field("log")), problem(BlurFFT((1, 9, 8), filter=KERNEL)))}
    assert found[EXACT].measured is None and found[EXACT].passed and "not certified" in found[EXACT].note


def test_the_command_ends_with_one_where_a_row_fails(monkeypatch, capsys):
    monkeypatch.setattr("app.commands.check.ROWS", 16)
    monkeypatch.setattr("app.commands.check.COLUMNS", 12)
    assert main(["check", "tv-denoise", "--set", "regularizer.smoothing=0.1", "--quiet"]) == 0
    assert capsys.readouterr().out.endswith("all checks passed\n")
    _missing_factor(monkeypatch)
    assert main(["check", "tv-denoise-grey-25", "--noise-level", "15/255", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "L: largest curvature of h" in [row.split("  ")[0] for row in out.splitlines() if "FAIL" in row]
    assert main(["check", "nothing", "--quiet"]) == 2
