"""Filter banks u_k = sum_c filters[k, c] * x_c, their adjoints, and bounds on their norm.

Correlation convention: u[k, i, j] = sum_{c, p, q} filters[k, c, p, q] x[c, i + p, j + q] (no flip), as in
`torch.nn.functional.conv2d`.

A direct convolution with few input channels reaches a fraction of a CPU's matrix-product rate. Here the s shifts
along the width become channels (a strided view, no arithmetic), and one (s x 1) convolution over C s channels in
`channels_last` does the rest; the adjoint runs the same two steps backwards.

Both are `valid`: every response sees s x s true pixels. A boundary rule is a padding P before, its adjoint after, with
||P||^2 <= `boundary_factor`:

    valid      no padding                                                   1
    circular   periodic image                                               1 (the filtering itself is circulant)
    reflect    mirrored without repeating the edge pixel                     4 (a pixel appears at most twice per axis)
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BOUNDARIES = ("valid", "circular", "reflect")

# So many responses are held at a time. This bounds the memory that a large image takes, and blocks of this size (8 MB
# in float32) stay in a CPU's cache, while larger ones are read from memory by every elementwise pass.
TILE = 2_000_000


class ImageTooSmallError(ValueError):
    """Says that an image is smaller than the filters."""


def analysis(x: Tensor, filters: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H - s + 1, W - s + 1)
    """Return u, the responses of the bank (K, C, s, s)."""
    return F.conv2d(_shifts(x, filters.shape[-1]), _as_columns(filters))


def synthesis(u: Tensor, filters: Tensor) -> Tensor:  # (B, K, H - s + 1, W - s + 1) -> (B, C, H, W)
    """Apply the adjoint of `analysis` in its first argument, with filters (K, C, s, s)."""
    channels, size = filters.shape[1], filters.shape[-1]
    columns = F.conv_transpose2d(_channels_last(u), _as_columns(filters))
    columns = columns.unflatten(1, (channels, size))
    width = columns.shape[-1]
    x = columns.new_zeros((*columns.shape[:2], columns.shape[3], width + size - 1))
    for j in range(size):
        x[..., j : j + width] += columns[:, :, j]
    return x


def filter_gradient(x: Tensor, z: Tensor, size: int) -> Tensor:
    """Return d/d filters <z, analysis(x, filters)>: (B, C, H, W), (B, K, H', W') -> (K, C, s, s)."""
    shifted = _shifts(x, size)
    shape = (z.shape[1], shifted.shape[1], size, 1)
    columns = torch.nn.grad.conv2d_weight(shifted, shape, z)  # type: ignore[arg-type]
    return columns.squeeze(-1).unflatten(1, (x.shape[1], size)).transpose(2, 3)


Tile = tuple[slice, slice, slice]  # images, channels or experts, rows


def tiles(shape: torch.Size, filters: Tensor) -> Iterator[Tile]:
    """Yield parts (images, :, rows) of a batch (B, C, H, W) whose responses partition those of the whole: no seams.

    Rows of neighbouring tiles overlap by s - 1, responses do not; a sum over tiles is the sum over the batch.
    """
    experts, size = filters.shape[0], filters.shape[-1]
    batch, _, height, width = shape
    rows = max(8, TILE // (experts * width))
    images = max(1, TILE // (experts * width * height))
    for b in range(0, batch, images):
        for i in range(0, height - size + 1, rows):
            yield slice(b, b + images), slice(None), slice(i, min(i + rows + size - 1, height))


def boundary_factor(boundary: str) -> float:
    """Return the bound on ||P||^2 of a boundary rule."""
    return 4.0 if boundary == "reflect" else 1.0


def spectral_bound(filters: Tensor, weights: Tensor, boundary: str) -> Tensor:  # (K, C, s, s), (K,) -> []
    """Bound the largest eigenvalue of sum_k weights_k C_k^T C_k from above, for every image size.

    With c^ the Fourier transform, the operator on the infinite grid has norm max over w of
    lambda_max(S(w)), S(w) = sum_k weights_k conj(c^_k(w)) c^_k(w)^T (C x C); `valid` filtering is a section of it and
    circular filtering a sampling. Each v^* S(w) v is a trigonometric polynomial of degree s - 1 per axis,
    so its maximum is at most its maximum over an N x N grid divided by cos(pi (s - 1) / N)^2
    (Ehlich and Zeller, 1964). Differentiable almost everywhere in the filters.
    """
    degree = filters.shape[-1] - 1
    grid = max(32, 2 ** math.ceil(math.log2(16 * (degree + 1))))
    if filters.shape[1] == 1:  # S is the transform of a stencil whose lags begin at 0 here, which turns its phase only
        stencil = torch.einsum("k,kij->ij", weights, autocorrelation(filters)[:, 0, 0])
        power = torch.fft.rfft2(stencil, s=(grid, grid)).abs()
    else:
        root = torch.fft.rfft2(filters, s=(grid, grid)) * weights.sqrt()[:, None, None, None]
        matrices = torch.einsum("kahw,kbhw->hwab", root.conj(), root)
        power = torch.linalg.eigvalsh(matrices)[..., -1]
    return boundary_factor(boundary) * power.max() / math.cos(math.pi * degree / grid) ** 2


def autocorrelation(filters: Tensor) -> Tensor:  # (K, C, s, s) -> (K, C, C, 2 s - 1, 2 s - 1)
    """Return a_k[c, d, l] = sum_j c_k[c, j] c_k[d, j + l], lag l = 0 in the middle: the stencil of C_k^T C_k."""
    experts, channels, size = filters.shape[:3]
    padded = F.pad(filters, (size - 1,) * 4).reshape(1, experts * channels, 3 * size - 2, 3 * size - 2)
    taps = filters.repeat_interleave(channels, 0)
    correlated = F.conv2d(padded, taps.reshape(-1, 1, size, size), groups=experts * channels)
    return correlated.reshape(experts, channels, channels, 2 * size - 1, 2 * size - 1).transpose(1, 2)


def _shifts(x: Tensor, size: int) -> Tensor:  # (B, C, H, W) -> (B, C s, H, W - s + 1), channels_last
    windows = x.permute(0, 2, 3, 1).unfold(2, size, 1)
    return _channels_last(windows.flatten(3).permute(0, 3, 1, 2))


def _as_columns(filters: Tensor) -> Tensor:  # (K, C, s, s) -> (K, C s, s, 1)
    columns = filters.transpose(2, 3).flatten(1, 2).unsqueeze(-1)
    # torch's convolutions of small images cannot differentiate by filters in the fast layout.
    return columns.contiguous() if columns.requires_grad else _channels_last(columns)


def _channels_last(x: Tensor) -> Tensor:
    """Return x in the layout that is fast in float32; torch's float64 convolution cannot differentiate through it."""
    return x.contiguous(memory_format=torch.channels_last) if x.dtype == torch.float32 else x.contiguous()


def pad(x: Tensor, size: int, boundary: str) -> Tensor:
    """Return P x for filters of this size: (B, C, H, W) -> (B, C, H + s - 1, W + s - 1), or x itself for `valid`.

    Raises ImageTooSmallError where a filter does not fit into the image.
    """
    if min(x.shape[2:]) < size:
        raise ImageTooSmallError(f"images of {x.shape[3]} x {x.shape[2]} are too small for {size} x {size} filters")
    if boundary == "valid":
        return x
    return F.pad(x, (size // 2,) * 4, mode=boundary)


def pad_adjoint(x: Tensor, size: int, boundary: str) -> Tensor:  # (B, C, H + s - 1, W + s - 1) -> (B, C, H, W)
    """Return P^T x."""
    if boundary == "valid":
        return x
    r = size // 2
    for axis in (2, 3):
        n = x.shape[axis]
        inner = x.narrow(axis, r, n - 2 * r).clone()
        before, after = x.narrow(axis, 0, r), x.narrow(axis, n - r, r)
        if boundary == "circular":
            inner.narrow(axis, n - 3 * r, r).add_(before)
            inner.narrow(axis, 0, r).add_(after)
        else:
            inner.narrow(axis, 1, r).add_(before.flip(axis))
            inner.narrow(axis, n - 3 * r - 1, r).add_(after.flip(axis))
        x = inner
    return x
