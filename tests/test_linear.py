"""Conjugate gradients against dense solves, and the cases that break other implementations."""

from dataclasses import dataclass

import pytest
import torch

from app.lower.solution import norm
from app.upper.linear import conjugate_gradient

pytestmark = pytest.mark.usefixtures("double")


def spd(condition: float, batch: int, n: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(batch, n, n, generator=generator))
    return q @ torch.diag(torch.logspace(0, torch.tensor(condition).log10(), n)) @ q.mT


@dataclass(frozen=True)
class product:
    matrices: torch.Tensor  # (B, N, N)

    def __call__(self, v):
        return (self.matrices @ v.flatten(1).unsqueeze(-1)).view_as(v)

    def take(self, images):
        return product(self.matrices[images])


@pytest.mark.parametrize("condition", [1.4, 35.0, 1e4])
@pytest.mark.parametrize("size", [1.0, 4e-3, 1e-6])
def test_it_reaches_the_tolerance_whatever_the_size_of_the_right_hand_side(condition, size):
    matrices, b = spd(condition, 3), size * torch.randn(3, 1, 4, 4)
    solution = conjugate_gradient(product(matrices), b, 1e-8 * norm(b))
    exact = torch.linalg.solve(matrices, b.flatten(1)).view_as(b)
    assert solution.converged.all()
    assert (norm(product(matrices)(solution.q) - b) <= 1e-8 * norm(b)).all()
    assert (norm(solution.q - exact) <= 1.01e-8 * norm(b)).all()


def test_a_zero_right_hand_side_gives_zero_without_a_product():
    b = torch.randn(2, 1, 4, 4)
    b[0] = 0
    solution = conjugate_gradient(product(spd(10, 2)), b, torch.full((2,), 1e-9))
    assert solution.q[0].abs().max() == 0
    assert solution.iterations[0] == 0
    assert solution.converged.all()


def test_a_batch_changes_no_solution():
    matrices, b = torch.cat([spd(2, 1), spd(1e3, 1)]), torch.randn(2, 1, 4, 4)
    together = conjugate_gradient(product(matrices), b, torch.full((2,), 1e-6))
    for i in range(2):
        alone = conjugate_gradient(product(matrices[i : i + 1]), b[i : i + 1], torch.full((1,), 1e-6))
        torch.testing.assert_close(alone.q[0], together.q[i])
        assert alone.iterations[0] == together.iterations[i]


def test_a_warm_start_at_the_solution_costs_one_product():
    matrices, b = spd(100, 2), torch.randn(2, 1, 4, 4)
    exact = torch.linalg.solve(matrices, b.flatten(1)).view_as(b)
    solution = conjugate_gradient(product(matrices), b, torch.full((2,), 1e-6), exact)
    assert solution.iterations.tolist() == [1, 1]
    torch.testing.assert_close(solution.q, exact)


def test_the_residual_is_the_true_one_also_where_the_recurrence_drifts():
    matrices = spd(1e6, 2, 64).float()
    b = torch.randn(2, 1, 8, 8).float()
    solution = conjugate_gradient(product(matrices), b, torch.full((2,), 1e-3), max_iterations=5000)
    torch.testing.assert_close(norm(product(matrices)(solution.q) - b), solution.residual, rtol=1e-2, atol=1e-5)
    assert (solution.residual[solution.converged] <= 1e-3).all()


def test_an_indefinite_matrix_ends_unconverged_and_finite():
    matrices = torch.diag(torch.linspace(-1, 1, 16))[None]
    solution = conjugate_gradient(product(matrices), torch.ones(1, 1, 4, 4), torch.full((1,), 1e-9))
    assert not solution.converged.any()
    assert solution.q.isfinite().all()


@pytest.mark.parametrize("condition", [35.0, 1e4])
def test_the_quotients_seen_lie_within_the_spectrum_and_reach_for_its_ends(condition):
    matrices, b = spd(condition, 3), torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    solution = conjugate_gradient(product(matrices), b, 1e-8 * norm(b))
    assert (solution.least >= 1 - 1e-9).all()
    assert (solution.least <= 3).all()
    assert (solution.largest <= condition * (1 + 1e-9)).all()
    assert (solution.largest >= 0.3 * condition).all()


def test_negative_curvature_is_seen():
    matrices = torch.diag(torch.linspace(-1, 1, 16))[None]
    solution = conjugate_gradient(product(matrices), torch.eye(16)[:1].view(1, 1, 4, 4), torch.full((1,), 1e-9))
    torch.testing.assert_close(solution.least, -torch.ones(1))


def test_without_a_product_no_curvature_is_seen():
    solution = conjugate_gradient(product(spd(10, 1)), torch.zeros(1, 1, 4, 4), torch.zeros(1))
    assert solution.least.isposinf().all()
    assert solution.largest.isneginf().all()
