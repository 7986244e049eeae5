"""`check` finds what is wrong, says where, and finds nothing where nothing is wrong."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from deepinv.physics import MRI, Blur, BlurFFT, Denoising
from torch import Tensor

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
from regularizers.tv import TotalVariationFunctional
from tests.problems import perturbed

GENERATOR = torch.Generator().manual_seed(0)
CLEAN = torch.rand(1, 1, 9, 8, generator=GENERATOR, dtype=torch.float64)
KERNEL = torch.rand(1, 1, 3, 3, generator=GENERATOR, dtype=torch.float64)


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
    patch.setattr(regularizers.foe.functional, "fastest", lambda x, size, potential: fastest(x, size, "huber"))


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


FAULTS = {
    "wrong sign in the mixed derivative": (_wrong_sign, tv, {"mixed derivative of R: autograd"}),
    "adjoint of another padding": (_other_padding, tv, set()),
    "mu too large by a tenth": (_large_modulus, tv, {"mu: smallest curvature of h"}),
    "factor missing in L": (_missing_factor, tv, {"L: largest curvature of h"}),
    "compiled for another potential": (_other_potential, field, set()),
    "ridge missing in the Hessian": (_no_ridge, tv, {"h: its terms"}),
    "gradient wrong by a thousandth": (_inexact_gradient, tv, set()),
    "stated bound too small": (_small_bound, tv, {"stated bound: exact bound"}),
    "loose adjoint solve": (_loose_adjoint, tv, {"hypergradient: residual of its solve"}),
    "weight missing in the slopes": (_no_weight, tv, {"slopes of R: autograd", "slopes of R: differences"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_in_the_rows_it_belongs_to(name, monkeypatch):
    plant, regularizer, rows = FAULTS[name]
    posed = blurred()
    plant(monkeypatch)
    found = check(regularizer(), posed)
    assert failed(found) == rows, table(found)
