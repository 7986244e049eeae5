"""Sums along parallel rays, as a sparse matrix with the weights of bilinear interpolation.

    (A x)(s, theta) = scale sum_t x(s e + t e'),    e = (cos theta, -sin theta),  e' = (sin theta, cos theta),

in pixels (column, row) from the middle of the image, s and t one pixel apart on a detector of D cells and on its side.
With the hat b(u) = max(0, 1 - |u|), pixel p has the weight scale sum_t b((s e + t e' - p)_1) b((s e + t e' - p)_2) in
ray s, so that at most three rays of each direction see it. This is the A of deepinv's Tomography, which rotates the
image for every direction. As a matrix it needs no rotation, and A^T is the transpose.

**Scale.** With scale = N^(-1/2) for N directions, equally spaced over 180 degrees, A^T A is a mean over them. One
direction measures the frequencies f (in cycles per pixel) on one line, so that A^T A resembles a convolution with

    (1 / pi) integral_0^pi delta(|f| cos a) da  =  1 / (pi |f|)

for every size of the image and every N. (Interpolation leaves nine tenths of it at |f| = 0.15, four tenths at 0.45.)
So a regularizer that was learned on patches meets the same A^T A on whole slices, at the same noise level. (Over r
degrees, A^T A is 180 / r times as large at the measured frequencies.) Noise of one level in A x is noise of N^(1/2)
times this level in each sum along a ray: the dose is that of all directions together.

**Bounds.** All entries of A are >= 0, and so are those of M = A^T A: ||A||^2 <= max_p (M v)_p / v_p for every v > 0
(Collatz, 1942). For v = 1 this is at most the largest row sum times the largest column sum; steps of the power method
sharpen it. Nothing cancels between the weights: rounding changes a product by gamma_m ||A|| ||x|| at most, as
`app/lower/certificate.py` assumes. lambda_min = 0.

**No preconditioner of its own.** 1 / (pi |f|), or the circulant nearest to A^T A, is no model of it where there are few
directions: a plane wave between their lines is measured by its neighbours alone. Solves take more gradients with
either than with ||A||^2 in its place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from deepinv.physics.functional import RampFilter
from scipy import sparse
from torch import Tensor

KEPT = 2  # matrices of different images or directions; one of 362 x 362 pixels and 60 directions has 280 MB
NEGLIGIBLE = 1e-14  # a weight that only rounding has made
POWER_STEPS = 4  # behind the bound on ||A||^2; it is then within a few percent of it
ROUNDING = 1 + 1e-12  # of this bound, from sums of fewer than 1e4 numbers in float64

Direction = tuple[float, float]  # (cos theta, sin theta)


@dataclass(frozen=True)
class RaySums:
    """A for images of one shape. Rays are in order of their direction, and then of their cell."""

    matrix: Tensor  # A (N D, H W), CSR
    transpose: Tensor  # A^T (H W, N D), CSR
    grid: tuple[int, int]  # (H, W)
    detectors: int  # D
    scale: float

    @property
    def directions(self) -> int:
        return self.matrix.shape[0] // self.detectors

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, D, N)
        return _product(self.matrix, x).unflatten(2, (self.directions, self.detectors)).transpose(2, 3)

    def adjoint(self, y: Tensor) -> Tensor:  # (B, C, D, N) -> (B, C, H, W)
        return _product(self.transpose, y.transpose(2, 3)).unflatten(2, self.grid)

    def filtered_back_projection(self, y: Tensor) -> Tensor:  # (B, C, D, N) -> (B, C, H, W)
        """Return pi / (2 N scale^2) A^T F y, F the ramp filter along the detector: an approximate inverse of A."""
        filtered = RampFilter(dtype=y.dtype)(y)
        return self.adjoint(filtered) * (math.pi / (2 * self.directions * self.scale**2))

    def double(self) -> RaySums:
        """Return A in float64: its numbers stay what they are, and their places are shared."""
        return replace(self, matrix=_double(self.matrix), transpose=_double(self.transpose))

    def to(self, device: torch.device | str) -> RaySums:
        return replace(self, matrix=self.matrix.to(device), transpose=self.transpose.to(device))

    @cached_property
    def reached(self) -> Tensor:  # (1, 1, D, N)
        """1 for rays that see a pixel, 0 for others."""
        seen = self.matrix.crow_indices().diff().bool().to(self.matrix.dtype)
        return seen.view(1, 1, self.directions, self.detectors).transpose(2, 3)

    @cached_property
    def norm_squared(self) -> float:
        """A bound on ||A||^2, proven."""
        exact, bound = self.double(), math.inf
        v = torch.ones(1, 1, *self.grid, dtype=torch.float64, device=self.matrix.device)
        for _ in range(POWER_STEPS):
            product = exact.adjoint(exact.forward(v))
            bound = min(bound, ROUNDING * float((product / v).max()))
            v = product / product.max() + (product == 0)  # v > 0 also at pixels that no ray sees
        return bound


def directions_at(angles: Sequence[float]) -> tuple[Direction, ...]:
    """Return the directions at these angles in degrees."""
    return tuple((math.cos(math.radians(a)), math.sin(math.radians(a))) for a in angles)


def detectors_for(side: int) -> int:
    """Return how many cells see all of a square of this side."""
    return math.ceil(math.sqrt(2) * side)


@lru_cache(maxsize=KEPT)
def ray_sums(
    grid: tuple[int, int], directions: tuple[Direction, ...], scale: float, circle: bool, dtype: torch.dtype
) -> RaySums:
    """Return A for images of this grid (H, W), which stand in the middle of a square of zeros.

    circle: of a square image only the inscribed circle is seen, by a detector as wide as the square.
    """
    detectors = max(grid) if circle else detectors_for(max(grid))
    rows, columns = (np.arange(n) + detectors // 2 - n // 2 - (detectors - 1) / 2 for n in grid)
    rows, columns = (t.ravel() for t in np.meshgrid(rows, columns, indexing="ij"))
    seen = _in_circle(max(grid)) if circle else np.ones(len(rows), dtype=bool)
    number = np.dtype(str(dtype).removeprefix("torch."))
    parts = [(scale * _weights(rows, columns, seen, d, detectors)).astype(number) for d in directions]
    built: Any = sparse.vstack(parts, "csr")
    matrix, transpose = (
        _csr(*(torch.from_numpy(a) for a in (m.indptr, m.indices, m.data)), shape=shape)
        for m, shape in ((built, built.shape), (built.tocsc(), built.shape[::-1]))
    )
    return RaySums(matrix, transpose, grid, detectors, scale)


def _weights(
    rows: np.ndarray, columns: np.ndarray, seen: np.ndarray, direction: Direction, detectors: int
) -> sparse.csr_array:
    """The weights (D, H W) of one direction, in float64; of pixels (H W,) from the middle, those that are seen."""
    cosine, sine = direction
    s, t = cosine * columns - sine * rows, sine * columns + cosine * rows
    middle, reach = (detectors - 1) / 2, abs(cosine) + abs(sine)  # where both hats are above 0
    first_s, first_t = (np.floor(place + middle - reach) + 1 for place in (s, t))
    weights = np.zeros((3, len(s)))
    for i in range(3):
        along = first_t + i
        dt, inside = along - middle - t, (along >= 0) & (along < detectors)
        for j in range(3):
            ds = first_s + (j - middle) - s
            weights[j] += inside * _hat(ds * cosine + dt * sine) * _hat(dt * cosine - ds * sine)
    cells = first_s + np.arange(3)[:, None]
    kept = ((weights > NEGLIGIBLE) & (cells >= 0) & (cells < detectors) & seen).T
    ends = np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32)
    entries = weights.T[kept], cells.T[kept].astype(np.int32), ends
    return sparse.csc_array(entries, shape=(detectors, len(s))).tocsr()


def _hat(u: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(u), 0)


def _in_circle(side: int) -> np.ndarray:  # -> (side^2,)
    """Whether pixels are in the inscribed circle, up to the rounding of deepinv, which computes it in float32."""
    place = 2 * torch.arange(side, dtype=torch.float32) / (side - 1) - 1
    return (place.square()[:, None] + place.square() <= 1).flatten().numpy()


def _csr(ends: Tensor, places: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # of torch: that its interface may change
        return torch.sparse_csr_tensor(ends, places, values, shape, check_invariants=False)


def _double(matrix: Tensor) -> Tensor:
    return _csr(matrix.crow_indices(), matrix.col_indices(), matrix.values().double(), matrix.shape)


def _product(matrix: Tensor, x: Tensor) -> Tensor:  # (m, n), (B, C, ...) -> (B, C, m)
    """The matrix times all images at once."""
    flat = x.reshape(x.shape[0] * x.shape[1], -1)
    found = (matrix @ flat[0])[None] if len(flat) == 1 else (matrix @ flat.T).T
    return found.reshape(*x.shape[:2], -1)
