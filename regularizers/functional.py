"""R_theta for one fixed theta: what solvers and upper-level methods need of a regularizer.

This protocol is the only thing that the numerical core (app/lower, app/upper) knows of regularizers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor


@dataclass(frozen=True)
class Sensitivity:
    """For every x' with ||x'_b - x_b|| <= r_b, and J = d2R/(dtheta dx), theta the parameters; one value per image."""

    jacobian: Tensor  # (B,) >= ||J(x')||
    product: Tensor  # (B,) >= ||(R''(x') - R''(x)) q||
    jacobian_product: Tensor  # (B,) >= ||(J(x') - J(x))^T q||


class Functional(Protocol):
    """R(x) for images x (B, C, H, W), R(constant) = 0 and -rho <= d2R/dx2 <= L for every x; R >= 0 if convex."""

    @property
    def natural(self) -> tuple[Tensor, ...]:
        """The parameters R depends on, in the order of `mixed`."""
        ...

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        ...

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        ...

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """v -> d2R/dx2(x) v; what depends on x alone is computed once."""
        ...

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        """d/d natural of sum_b <dR/dx(x_b), q_b>."""
        ...

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:
        """d/d natural of sum_b R(x_b)."""
        ...

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What preconditioners know of d2R/dx2(x): a stencil (B, C, C, 2 r + 1, 2 r + 1), lag 0 in the middle, whose
        convolution resembles it and is >= 0, and its diagonal (B, C, H, W), >= 0."""
        ...

    def curvature(self) -> tuple[float, float]:
        """(rho, L), proven bounds for every image and image size."""
        ...

    def take(self, images: Tensor) -> Self:
        """R of these images of the batch, where it is not the same for all."""
        ...
