"""Small problems that dense linear algebra can check."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from regularizers import (
    CHARBONNIER,
    HUBER,
    LOG,
    MCP,
    SPLINE,
    WEAK_SPLINE,
    FieldOfExperts,
    InputConvexNetwork,
    Regularizer,
    Rescaled,
    TotalVariation,
)


@dataclass(frozen=True)
class MatrixOperator:
    """A given as a dense matrix acting on flattened images."""

    matrix: Tensor  # (M, N)
    image_shape: tuple[int, int, int]
    norm_proven = True

    @property
    def spectrum(self) -> Tensor:
        return torch.linalg.eigvalsh(self.matrix.T @ self.matrix)

    @property
    def norm_squared(self) -> float:
        return float(self.spectrum[-1])

    @property
    def lambda_min(self) -> float:
        return max(0.0, float(self.spectrum[0]))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix).view(-1, *self.image_shape)

    def normal(self, x: Tensor) -> Tensor:
        return self.adjoint(self.forward(x))

    def misfit_gradient(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: self.adjoint(self.forward(x) - y)

    @property
    def normal_model(self) -> tuple[float, float]:
        return (self.norm_squared, self.norm_squared)

    def take(self, images: Tensor) -> "MatrixOperator":
        return self


class Identity:
    """A = I on images."""

    norm_squared = lambda_min = 1.0
    norm_proven = True

    def forward(self, x: Tensor) -> Tensor:
        return x

    adjoint = normal = forward

    def misfit_gradient(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: x - y

    normal_model = (1.0, 1.0)

    def take(self, images: Tensor) -> "Identity":
        return self


def identity(shape: tuple[int, int, int]) -> MatrixOperator:
    n = shape[0] * shape[1] * shape[2]
    return MatrixOperator(torch.eye(n, dtype=torch.float64), shape)


def perturbed(regularizer: Regularizer, seed: int = 0, size: float = 0.3) -> Regularizer:
    """Away from the symmetric initial point, where wrong derivatives could cancel."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in regularizer.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return regularizer


def regularizers(channels: int) -> dict[str, Regularizer]:
    """One of each kind, perturbed, with responses on both sides of every kink for images of size about 1."""
    made: dict[str, Regularizer] = {
        "tv isotropic": TotalVariation(channels, isotropic=True, weight=0.2, smoothing=0.3),
        "tv anisotropic": TotalVariation(channels, isotropic=False, weight=0.2, smoothing=0.3),
    }
    for potential in (CHARBONNIER, HUBER, MCP, LOG):
        # R with `log` is (w / (8 s) ||C||^2)-weakly convex, which has to stay below 0.9.
        weight, smoothing = (0.05, 0.4) if potential is LOG else (0.6, 0.2)
        for boundary in ("valid", "circular", "reflect"):
            made[f"foe {potential.name} {boundary}"] = FieldOfExperts(
                channels, 5, 3, potential, boundary=boundary, weak_convexity=0.8, weight=weight, smoothing=smoothing
            )
    # Convex and weakly convex ridge regularizers: composed filters of 5 x 5, learned potentials, shared or not.
    for name, potential, boundary, shared in (
        ("crr", SPLINE, "valid", True),
        ("crr reflect", SPLINE, "reflect", False),
        ("wcrr circular", WEAK_SPLINE, "circular", True),
        ("wcrr valid", WEAK_SPLINE, "valid", False),
    ):
        made[name] = FieldOfExperts(
            channels, 4, 3, potential, boundary=boundary, weak_convexity=0.8, weight=0.6, smoothing=0.2,
            hidden_channels=(2,), shared_potential=shared,
        )  # fmt: skip
    made["tv isotropic at one of many noise levels"] = TotalVariation(
        channels, weight=0.2, smoothing=0.3, noise_nodes=4
    ).at(0.11)
    made["foe charbonnier valid at one of many noise levels"] = FieldOfExperts(
        channels, 5, 3, CHARBONNIER, boundary="valid", weight=0.6, smoothing=0.2, noise_nodes=3
    ).at(0.08)
    made["icnn"] = InputConvexNetwork(channels, 4, 3, weight=0.3, smoothing=0.2)
    made = {name: perturbed(r) for name, r in made.items()}
    return made | {f"{name} rescaled": rescaled(made[name]) for name in RESCALED}


def rescaled(base: Regularizer, amplitude: float = 0.8, contrast: float = 1.3) -> Rescaled:
    made = Rescaled(deepcopy(base))
    with torch.no_grad():
        made.log_amplitude += math.log(amplitude)
        made.log_contrast += math.log(contrast)
    return made


RESCALED = ["tv isotropic", "foe charbonnier valid", "foe huber reflect", "foe mcp circular", "foe log circular"]


NAMES = [
    "tv isotropic", "tv anisotropic", "tv isotropic at one of many noise levels",
    "foe charbonnier valid at one of many noise levels", "icnn",
    *(f"foe {p} {b}" for p in ("charbonnier", "huber", "mcp", "log") for b in ("valid", "circular", "reflect")),
]  # fmt: skip
NAMES += ["crr", "crr reflect", "wcrr circular", "wcrr valid"]
NAMES += [f"{name} rescaled" for name in RESCALED]


def dense(product, shape: tuple[int, ...]) -> Tensor:
    """Matrix of a linear map on images (C, H, W)."""
    n = int(torch.tensor(shape).prod())
    basis = torch.eye(n, dtype=torch.float64).view(n, *shape)
    return product(basis).reshape(n, -1).T


def dense_hessian(functional, x: Tensor) -> Tensor:  # (1, C, H, W) -> (CHW, CHW)
    """Hessian of R at x, of all directions at once."""
    n = x.numel()
    product = functional.take(torch.zeros(n, dtype=torch.long)).hessian(x.expand(n, -1, -1, -1))
    return dense(product, tuple(x.shape[1:]))
