"""The hypergradient through a chain of reconstructions, of which each is conditioned on the one before.

x_0 = argmin h_0 is the guide's, x_t = argmin h(.; x_{t-1}) for t = 1 ... T, and H_t, J_t, Z_t are the derivatives of
dh/dx at x_t by x, by theta and by x_{t-1}. By the implicit function theorem dx_t/dtheta = -H_t^-1 G_t with

    G_t = J_t + Z_t dx_{t-1}/dtheta,    G_t^T q = J_t^T q - G_{t-1}^T p,    H_{t-1} p = Z_t^T q.

So with G_T in the place of J the hypergradient is that of app/upper/hypergradient.py, for one adjoint solve per link.
Z_t^T q is a derivative of the network alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.evaluation.guide import LowerProblem
from app.lower.solution import norm
from app.upper.hypergradient import adjoint
from app.upper.method import Cost
from regularizers.functional import Sensitivity

ACCURACY = 1e-2  # of H p = Z^T q, in units of the right-hand side


@dataclass(frozen=True)
class Chain:
    """What the regularizer of the last link learns, differentiated through all links at the theta they were solved at.

    That the links before are solved, and their adjoints, to some accuracy only is in no stated error.
    """

    last: LowerProblem
    spent: Cost

    @property
    def has_sensitivity(self) -> bool:
        return False

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.last.regularizer.parameters()

    @torch.no_grad()
    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        """Return G^T q, summed over the batch."""
        theta = tuple(self.parameters())
        place, total = {id(p): i for i, p in enumerate(theta)}, [torch.zeros_like(p) for p in theta]

        def add(link: LowerProblem, derivatives: tuple[Tensor, ...]) -> None:
            for p, g in zip(link.regularizer.parameters(), derivatives, strict=True):
                total[place[id(p)]] += g

        link = self.last
        while True:
            before, z = link.before, link.guided
            if before is None or z is None or not any(id(p) in place for p in before.regularizer.parameters()):
                break
            found, by_z = link.regularizer.mixed_with_condition(x, q)
            add(link, found)
            solution, computations = adjoint(before.energy(), z.x, -by_z, ACCURACY * norm(by_z))
            self.spent.add(computations)
            link, x, q = before, z.x, solution.q
        add(link, link.regularizer.mixed(x, q))
        return tuple(total)

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError("no method that goes through a chain needs values of h to be differentiated")

    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:
        return self.last.regularizer.sensitivity(x, q, radius)
