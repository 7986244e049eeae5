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
    """R of images x (B, C, H, W): R(constant) = 0, -rho <= d2R/dx2 <= L for every x, and R >= 0 if it is convex.

    natural: the parameters that R depends on, in the order of `mixed` and `slopes`.
    hessian: v -> d2R/dx2(x) v; what depends on x alone is computed once. The product is a tensor of its own, which its
        receiver may change.
    mixed, slopes: d/d natural of sum_b <dR/dx(x_b), q_b> and of sum_b R(x_b).
    curvature_model: what preconditioners know of d2R/dx2(x), or None where nothing is known. That is a stencil (B, C,
        C, 2 r + 1, 2 r + 1), lag 0 in the middle, whose convolution resembles d2R/dx2(x) and is >= 0, and the diagonal
        (B, C, H, W), >= 0.
    curvature: (rho, L), proven bounds for every image and image size.
    take: R of these images (N,) of the batch, where it is not the same for all images.

    Optional: operations, a number to which the rounding of a gradient is proportional (app/lower/certificate.py).
    """

    @property
    def natural(self) -> tuple[Tensor, ...]: ...
    def value(self, x: Tensor) -> Tensor: ...  # (B, C, H, W) -> (B,)
    def gradient(self, x: Tensor) -> Tensor: ...  # (B, C, H, W) -> (B, C, H, W)
    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]: ...
    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]: ...
    def slopes(self, x: Tensor) -> tuple[Tensor, ...]: ...
    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor] | None: ...
    def curvature(self) -> tuple[float, float]: ...
    def take(self, images: Tensor) -> Self: ...
