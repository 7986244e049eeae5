"""Solvers wait for a device at most once between two looks at which images are done, whatever the device."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from app.lower import agd, gd_polyak, iterate, lbfgs
from app.lower.energy import Energy
from app.upper import linear
from regularizers import CHARBONNIER, FieldOfExperts
from tests.problems import Identity, perturbed

pytestmark = pytest.mark.usefixtures("double")
EVERY = 8  # as on a GPU
WAITS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu", "numpy", "to"}


class Waits(TorchFunctionMode):
    """Counts what would wait for a GPU: numbers that reach Python, sizes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        by_mask = name in ("__getitem__", "__setitem__") and getattr(args[1], "dtype", None) == torch.bool
        self.count += name in WAITS or by_mask
        return func(*args, **(kwargs or {}))


@pytest.fixture
def looking_rarely(monkeypatch):
    look_rarely(monkeypatch)


def look_rarely(patch: pytest.MonkeyPatch) -> None:
    for module in (iterate, linear):
        patch.setattr(module, "check_every", lambda device: EVERY)
    patch.setattr(iterate, "unanimous", lambda condition: False)


def problem() -> tuple[Energy, torch.Tensor]:
    """Four times the same image: all leave at once."""
    functional = perturbed(FieldOfExperts(1, 6, 3, CHARBONNIER, weight=0.5, smoothing=0.01)).frozen()
    y = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1)
    return Energy(Identity(), functional, y), y


def more(run, few: float, many: float) -> tuple[int, int]:
    """Iterations and waits by which the second solve exceeds the first."""
    iterations, waits = [], []
    for accuracy in (few, many):
        with Waits() as counter:
            iterations.append(int(run(accuracy).iterations.max()))
        waits.append(counter.count)
    return iterations[1] - iterations[0], waits[1] - waits[0]


@pytest.mark.parametrize("solver", [agd, gd_polyak, lbfgs], ids=lambda module: module.__name__.split(".")[-1])
def test_a_lower_solve_waits_once_between_looks(solver, looking_rarely):
    energy, y = problem()
    iterations, waits = more(lambda accuracy: solver.solve(energy, y, accuracy), 1e-1, 1e-8)
    assert iterations > 2 * EVERY
    assert waits <= iterations / EVERY + 1


def test_conjugate_gradients_wait_once_between_looks(looking_rarely):
    energy, y = problem()
    hessian = energy.hessian(torch.zeros_like(y))
    iterations, waits = more(
        lambda accuracy: linear.conjugate_gradient(hessian, y, torch.full((4,), accuracy)), 1e-1, 1e-12
    )
    assert iterations > 2 * EVERY
    assert waits <= iterations / EVERY + 1


def test_looking_rarely_changes_no_result(monkeypatch):
    energy, y = problem()
    y = y * torch.tensor([0.01, 0.3, 1.0, 4.0]).view(4, 1, 1, 1)
    often = lbfgs.solve(energy, y, 1e-4)
    with monkeypatch.context() as patch:
        look_rarely(patch)
        rarely = lbfgs.solve(energy, y, 1e-4)
    assert len(set(often.iterations.tolist())) > 1
    assert rarely.converged.all()
    assert ((rarely.x - often.x).flatten(1).norm(dim=1) <= 2e-4).all()  # both lie within 1e-4 of the minimiser
