"""R_theta for one fixed theta: what solvers and upper-level methods need of a regularizer.

This protocol is the only thing that the numerical core (app/lower, app/upper) knows of regularizers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor


class RegularizerError(ValueError):
    """Says that a regularizer is asked for what it cannot be or cannot do."""


@dataclass(frozen=True)
class Sensitivity:
    """Bounds for every x' with ||x'_b - x_b|| <= r_b, one value per image. J = d2R/(dtheta dx), by parameters theta."""

    jacobian: Tensor  # (B,) >= ||J(x')||
    product: Tensor  # (B,) >= ||(R''(x') - R''(x)) q||
    jacobian_product: Tensor  # (B,) >= ||(J(x') - J(x))^T q||


class Functional(Protocol):
    """R of images x (B, C, H, W): R(constant) = 0, -rho <= d2R/dx2 <= L for every x, and R >= 0 if it is convex."""

    @property
    def natural(self) -> tuple[Tensor, ...]:
        """The parameters that R depends on, in the order of `mixed` and `slopes`."""
        ...

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        ...

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        ...

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        """Return v -> d2R/dx2(x) v; what depends on x alone is computed once. The product is a tensor of its own, which
        its receiver may change."""
        ...

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        """Return d/d natural of sum_b <dR/dx(x_b), q_b>."""
        ...

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W)
        """Return d/d natural of sum_b R(x_b)."""
        ...

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor] | None:  # (B, C, H, W)
        """Return what preconditioners know of d2R/dx2(x), or None where nothing is known.

        That is a stencil (B, C, C, 2 r + 1, 2 r + 1), lag 0 in the middle, whose convolution resembles d2R/dx2(x) and
        is >= 0, and the diagonal (B, C, H, W), >= 0.
        """
        ...

    def curvature(self) -> tuple[float, float]:
        """Return (rho, L), proven bounds for every image and image size."""
        ...

    def take(self, images: Tensor) -> Self:  # (N,)
        """Return R of these images of the batch, where it is not the same for all images."""
        ...
