"""Small problems that dense linear algebra can check."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from regularizers import (
    BOUNDARIES,
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


def _kinds() -> Iterator[tuple[str, Callable[[int], Regularizer]]]:
    """Name every kind with what makes it for a number of channels, before it is perturbed."""
    yield "tv isotropic", partial(TotalVariation, isotropic=True, weight=0.2, smoothing=0.3)
    yield "tv anisotropic", partial(TotalVariation, isotropic=False, weight=0.2, smoothing=0.3)
    several = partial(TotalVariation, weight=0.2, smoothing=0.3, noise_nodes=4)
    yield "tv isotropic at one of many noise levels", lambda channels: several(channels).at(0.11)
    shape = {"filters": 5, "filter_size": 3}
    for potential, boundary in product((CHARBONNIER, HUBER, MCP, LOG), BOUNDARIES):
        # R with `log` is (w / (8 s) ||C||^2)-weakly convex, which has to stay below 0.9.
        weight, smoothing = (0.05, 0.4) if potential is LOG else (0.6, 0.2)
        yield f"foe {potential.name} {boundary}", partial(
            FieldOfExperts, **shape, potential=potential, boundary=boundary, weak_convexity=0.8, weight=weight,
            smoothing=smoothing,
        )  # fmt: skip
    field = partial(FieldOfExperts, **shape, boundary="valid", weight=0.6, smoothing=0.2, noise_nodes=3)
    yield "foe charbonnier valid at one of many noise levels", lambda channels: field(channels).at(0.08)
    # Convex and weakly convex ridge regularizers: composed filters of 5 x 5, learned potentials, shared or not.
    for name, potential, boundary, shared in (
        ("crr", SPLINE, "valid", True),
        ("crr reflect", SPLINE, "reflect", False),
        ("wcrr circular", WEAK_SPLINE, "circular", True),
        ("wcrr valid", WEAK_SPLINE, "valid", False),
    ):
        yield name, partial(
            FieldOfExperts, filters=4, filter_size=3, potential=potential, boundary=boundary, weak_convexity=0.8,
            weight=0.6, smoothing=0.2, hidden_channels=(2,), shared_potential=shared,
        )  # fmt: skip
    yield "icnn", partial(InputConvexNetwork, filters=4, filter_size=3, weight=0.3, smoothing=0.2)


KINDS = dict(_kinds())
RESCALED = ["tv isotropic", "foe charbonnier valid", "foe huber reflect", "foe mcp circular", "foe log circular"]
NAMES = [*KINDS, *(f"{name} rescaled" for name in RESCALED)]


def regularizer_named(name: str, channels: int = 1) -> Regularizer:
    """The one of this name, perturbed, with responses on both sides of every kink for images of size about 1."""
    kind = name.removesuffix(" rescaled")
    made = perturbed(KINDS[kind](channels))
    return made if kind == name else rescaled(made)


def rescaled(base: Regularizer, amplitude: float = 0.8, contrast: float = 1.3) -> Rescaled:
    made = Rescaled(deepcopy(base))
    with torch.no_grad():
        made.log_amplitude += math.log(amplitude)
        made.log_contrast += math.log(contrast)
    return made


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
