"""The compiled kernel of a GPU: a field of experts R(x) = scale sum_k sum_i phi((c_k * x)_i; w_k, s_k) in Triton. It
computes the gradient, Hessian-vector products and derivatives by the parameters, also with contrasts and masks; the
formulas are those of regularizers/foe/functional.py. Nothing of size K x H x W is written.

A program of one warp takes a tile of ROWS x COLUMNS responses of a block of experts at a time into its registers, a
column per thread: an image row, once loaded, serves all filter rows and experts, a vector of taps all rows of the tile.
The adjoint sums over experts and filter rows in registers, and over filter columns, where neighbouring threads meet, in
the program's own part of the result, (ROWS + s - 1) x (COLUMNS + s - 1), which stays in the cache. A second kernel adds
the parts where they overlap. There are no atomics: every sum has one order.

No response is computed twice. The arithmetic is the minimum, 4 C K s^2 operations per pixel for the gradient and 6 C K
s^2 for a product, with K and the responses rounded up to whole blocks and tiles. Parts take C (1 + (s - 1) / ROWS)
(1 + (s - 1) / COLUMNS) numbers per pixel, 2.1 C for s = 7, written and read once; more, but at most PROGRAMS parts in
all, where the experts of small images are shared among programs.
"""

# The language of the kernels is not Python's.
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import pad

from regularizers.foe.compiled.bank import Bank
from regularizers.foe.spline import KNOTS

try:
    import triton
    import triton.language as tl
except ImportError as error:
    UNUSABLE = str(error)
    # Enough for the kernels below to be read.
    triton = tl = SimpleNamespace(jit=lambda **_: lambda f: f, constexpr=int)  # type: ignore[assignment]
else:
    UNUSABLE = None
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):  # which lack tuples of tensors
        UNUSABLE = f"version {triton.__version__} is older than 3.4"

ROWS, COLUMNS = tl.constexpr(8), tl.constexpr(32)
VECTORS = tl.constexpr(2)  # of experts in a block; a vector is what one load of 16 bytes holds
J = tl.constexpr(len(KNOTS))  # of a spline
PIXELS = tl.constexpr(256)  # of a program that adds parts
PROGRAMS = 1584  # 12 warps, as many as have registers, on each multiprocessor of an H200
FUSED = {"enable_fp_fusion": True}  # a product and a sum in one instruction: Triton 3.10 no longer does so unasked
# More registers would only hold what is loaded early, while other warps hide the wait; fewer spill within the loops.
OPTIONS = {"num_warps": 1, "num_stages": 1, "maxnreg": 168, **FUSED}

jit = triton.jit(do_not_specialize=["height", "width", "experts", "blocks", "tiles", "groups"])


@jit
def _clip(t):
    return tl.minimum(tl.maximum(t, -1.0), 1.0)


@jit
def _of_knot(table, j, VECTOR: tl.constexpr):
    """Return entry j of a (3 J, experts of a block) table, a, b and tau, for a vector of experts."""
    return tl.load(table + j * (VECTORS * VECTOR) + tl.arange(0, VECTOR))[:, None]


@jit
def _influence(t, w, s, shape, POTENTIAL: tl.constexpr):
    """Return phi'(t) of a vector of experts. shape: a, b and tau of a spline, for this vector."""
    if POTENTIAL == "charbonnier":
        z = w * t * tl.rsqrt(t * t + s * s)
    elif POTENTIAL == "huber":
        z = w * _clip(t * (1 / s))
    elif POTENTIAL == "log":
        z = w * s * t / (t * t + s * s)
    elif POTENTIAL == "spline":
        z = tl.zeros_like(t)
        for j in range(J):  # unrolled, it takes minutes to compile
            b, tau = _of_knot(shape, J + j, t.shape[0]), _of_knot(shape, 2 * J + j, t.shape[0])
            z += b * tl.minimum(tl.maximum(t * (1 / s), -tau), tau)
        z = w * z
    else:
        z = w * (_clip(t * (1 / s)) - _clip(t * (1 / w)))
    return z


@jit
def _curvature(t, w, s, shape, POTENTIAL: tl.constexpr):
    if POTENTIAL == "charbonnier":
        r = tl.rsqrt(t * t + s * s)
        d = (w * s * s) * (r * r * r)
    elif POTENTIAL == "log":
        r = 1 / (t * t + s * s)
        d = (w * s) * (s * s - t * t) * (r * r)
    elif POTENTIAL == "spline":
        d = tl.zeros_like(t)
        for j in range(J):
            a, tau = _of_knot(shape, J - 1 - j, t.shape[0]), _of_knot(shape, 3 * J - 1 - j, t.shape[0])
            d = tl.where(tl.abs(t) * (1 / s) < tau, a, d)
        d = (w / s) * d
    else:
        d = tl.where(tl.abs(t) < s, w / s, 0.0)
        if POTENTIAL == "mcp":
            d -= tl.where(tl.abs(t) < w, 1.0, 0.0)
    return d


@jit
def _by_weight(t, w, s, shape, POTENTIAL: tl.constexpr):
    if POTENTIAL == "mcp":
        d = _clip(t * (1 / s)) - tl.where(tl.abs(t) < w, 0.0, tl.where(t < 0, -1.0, 1.0))
    else:
        d = _influence(t, 1.0, s, shape, POTENTIAL)
    return d


@jit
def _by_smoothing(t, w, s, POTENTIAL: tl.constexpr):
    if POTENTIAL == "charbonnier":
        r = tl.rsqrt(t * t + s * s)
        d = (-w * s) * t * (r * r * r)
    elif POTENTIAL == "log":
        r = 1 / (t * t + s * s)
        d = w * t * (t * t - s * s) * (r * r)
    else:
        d = tl.where(tl.abs(t) < s, (-w / (s * s)) * t, 0.0)
    return d


@jit
def _place(tile, height, width, CHANNELS: tl.constexpr, SIZE: tl.constexpr):
    """Return the offset of the tile's first pixel in the batch, its row and its columns in the image."""
    down, across = tl.cdiv(height - SIZE + 1, ROWS), tl.cdiv(width - SIZE + 1, COLUMNS)
    row, column = tile // across % down * ROWS, tile % across * COLUMNS
    first = ((tile // (across * down)).to(tl.int64) * CHANNELS * height + row) * width + column
    return first, row, column + tl.arange(0, COLUMNS)


@jit
def _inside(row, columns, height, width):
    return columns < tl.where(row < height, width, 0)


@jit
def _vectors(values, place, VECTOR: tl.constexpr):
    """Return values for each of a block's experts."""
    vectors = ()
    for e in tl.static_range(VECTORS):
        vectors += (tl.load(values + (place * VECTORS + e) * VECTOR + tl.arange(0, VECTOR))[:, None],)
    return vectors


@jit
def _local(plane, tile, k, i, columns, experts, height, width):
    """Return the contrasts, or masks, of experts k in row i of the tile's image, (vector, COLUMNS).

    The parameters height and width are those of the responses.
    """
    down, across = tl.cdiv(height, ROWS), tl.cdiv(width, COLUMNS)
    place = (tile // (across * down)).to(tl.int64) * experts + k
    known = (k < experts)[:, None] & _inside(i, columns, height, width)[None, :]
    return tl.load(plane + (place[:, None] * height + i) * width + columns[None, :], known, 1.0)


@jit
def _rows(image, row, columns, height, width, N: tl.constexpr):
    """Return N image rows, zero beyond the border."""
    rows = ()
    for n in tl.static_range(N):
        at = image + n * width + tl.arange(0, COLUMNS)
        rows += (tl.load(at, _inside(row + n, columns, height, width), 0.0),)
    return rows


@jit
def _zeros(N: tl.constexpr, VECTOR: tl.constexpr, dtype: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(N):
        zeros += (tl.zeros((VECTOR, COLUMNS), dtype),)
    return zeros


@jit
def _responses(image, taps, row, columns, height, width, CHANNELS: tl.constexpr, SIZE: tl.constexpr):
    """Return u = C x on the tile: (vector, row) -> u[vector * ROWS + row]. Triton takes sizes as parameters."""
    dtype: tl.constexpr = image.dtype.element_ty
    VECTOR: tl.constexpr = 128 // dtype.primitive_bitwidth
    u = _zeros(VECTORS * ROWS, VECTOR, dtype)
    for c in range(CHANNELS):
        for q in range(SIZE):
            plane = image + c * (height.to(tl.int64) * width) + q
            x = _rows(plane, row, columns + q, height, width, ROWS + SIZE - 1)
            for p in tl.static_range(SIZE):
                f = _vectors(taps, (c * SIZE + q) * SIZE + p, VECTOR)
                sums = ()
                for e in tl.static_range(VECTORS):
                    for i in tl.static_range(ROWS):
                        sums += (u[e * ROWS + i] + f[e] * x[i + p][None, :],)
                u = sums
    return u


@jit
def _add(to, values):
    tl.store(to, tl.load(to) + values)


@jit
def _add_adjoint(z, taps, part, CHANNELS: tl.constexpr, SIZE: tl.constexpr, SQUARED: tl.constexpr):
    """Add C^T z, or (C o C)^T z, to the part."""
    VECTOR: tl.constexpr = z[0].shape[0]
    N: tl.constexpr = ROWS + SIZE - 1
    for c in range(CHANNELS):
        for q in range(SIZE):
            g = _zeros(N, VECTOR, z[0].dtype)
            for p in tl.static_range(SIZE):
                f = _vectors(taps, (c * SIZE + q) * SIZE + p, VECTOR)
                sums = ()
                for n in tl.static_range(N):
                    total = g[n]
                    if n >= p and n < p + ROWS:
                        for e in tl.static_range(VECTORS):
                            total += (f[e] * f[e] if SQUARED else f[e]) * z[e * ROWS + n - p]
                    sums += (total,)
                g = sums
            for n in tl.static_range(N):
                to = part + ((c * N + n) * (COLUMNS + SIZE - 1) + q) + tl.arange(0, COLUMNS)
                _add(to, tl.sum(g[n], 0))
            tl.debug_barrier()  # the next filter column reaches what other threads have written


@jit
def _parts(
    x, v, taps, weights, smoothings, shapes, contrasts, masks, parts, sums, height, width, experts, blocks, tiles,
    MODE: tl.constexpr, ADAPTIVE: tl.constexpr, MASKED: tl.constexpr, POTENTIAL: tl.constexpr,
    CHANNELS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Compute what a tile adds to scale^-1 dR/dx, to a product with v, or to the summary, whose sums are (tile, k).

    A Triton kernel takes its tensors one by one and all sizes as parameters; one launch is one function of many lines.
    """
    tile, group = tl.program_id(0), tl.program_id(1)
    VECTOR: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    first, row, columns = _place(tile, height, width, CHANNELS, SIZE)
    part = parts + (group.to(tl.int64) * tiles + tile) * (CHANNELS * (ROWS + SIZE - 1) * (COLUMNS + SIZE - 1))
    for block in range(group, blocks, tl.num_programs(1)):
        w, s = _vectors(weights, block, VECTOR), _vectors(smoothings, block, VECTOR)
        f = taps + block * (CHANNELS * SIZE * SIZE * VECTORS * VECTOR)
        u = _responses(x + first, f, row, columns, height, width, CHANNELS, SIZE)
        shape = shapes + block * (3 * J * VECTORS * VECTOR)
        z = ()
        for e in tl.static_range(VECTORS):
            for i in tl.static_range(ROWS):
                t = u[e * ROWS + i]
                k = (block * VECTORS + e) * VECTOR + tl.arange(0, VECTOR)
                if ADAPTIVE:
                    g = _local(contrasts, tile, k, row + i, columns, experts, height - SIZE + 1, width - SIZE + 1)
                    t = g * t
                if MODE == "gradient":
                    value = _influence(t, w[e], s[e], shape + e * VECTOR, POTENTIAL)
                    if ADAPTIVE:
                        value = value / g
                else:
                    value = _curvature(t, w[e], s[e], shape + e * VECTOR, POTENTIAL)
                if MASKED:
                    value *= _local(masks, tile, k, row + i, columns, experts, height - SIZE + 1, width - SIZE + 1)
                inside = _inside(row + i, columns, height - SIZE + 1, width - SIZE + 1)[None, :]
                z += (tl.where(inside, tl.abs(value) if MODE == "summary" else value, 0.0),)
        if MODE == "product":
            r = _responses(v + first, f, row, columns, height, width, CHANNELS, SIZE)
            d, z = z, ()
            for m in tl.static_range(VECTORS * ROWS):
                z += (d[m] * r[m],)
        if MODE == "summary":
            for e in tl.static_range(VECTORS):
                total = z[e * ROWS]
                for i in tl.static_range(1, ROWS):
                    total += z[e * ROWS + i]
                k = ((tile.to(tl.int64) * blocks + block) * VECTORS + e) * VECTOR + tl.arange(0, VECTOR)
                tl.store(sums + k, tl.sum(total, 1))
        _add_adjoint(z, f, part, CHANNELS, SIZE, MODE == "summary")


@jit
def _sum_parts(
    parts, image, height, width, tiles, groups, SCALE: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr
):
    """Compute every pixel from the parts that reach it. Triton takes all sizes as parameters."""
    programs = tl.cdiv(height * width, PIXELS)
    plane, pixel = tl.program_id(0) // programs, tl.program_id(0) % programs * PIXELS + tl.arange(0, PIXELS)
    down, across = tl.cdiv(height - SIZE + 1, ROWS), tl.cdiv(width - SIZE + 1, COLUMNS)
    N: tl.constexpr = ROWS + SIZE - 1
    M: tl.constexpr = COLUMNS + SIZE - 1
    total = tl.zeros((PIXELS,), image.dtype.element_ty)
    for group in range(groups):
        for a in tl.static_range((N + ROWS - 1) // ROWS):
            for b in tl.static_range((M + COLUMNS - 1) // COLUMNS):
                i, j = pixel // width // ROWS - a, pixel % width // COLUMNS - b
                n, m = pixel // width - i * ROWS, pixel % width - j * COLUMNS
                reached = (i >= 0) & (i < down) & (n < N) & (j >= 0) & (j < across) & (m < M)
                tile = group * tiles + (plane // CHANNELS * down + i) * across + j
                at = ((tile.to(tl.int64) * CHANNELS + plane % CHANNELS) * N + n) * M + m
                total += tl.load(parts + at, reached & (pixel < height * width), 0.0)
    tl.store(image + plane.to(tl.int64) * height * width + pixel, total * SCALE, pixel < height * width)


@jit
def _derivatives(
    x, v, taps, weights, smoothings, shapes, contrasts, masks, sums, height, width, experts, tiles,
    ADAPTIVE: tl.constexpr, MASKED: tl.constexpr, POTENTIAL: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Compute derivatives of scale^-1 <dR/dx, v> by a block's taps, weights, smoothings and b, over every
    num_programs-th tile. Its parameters and lines are many, as those of `_parts`."""
    block = tl.program_id(1)
    VECTOR: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    TAPS: tl.constexpr = CHANNELS * SIZE * SIZE
    KNOTTED: tl.constexpr = J if POTENTIAL == "spline" else 0
    k = tl.arange(0, VECTOR)
    mine = sums + (tl.program_id(0) * tl.num_programs(1) + block) * ((TAPS + 2 + KNOTTED) * VECTORS * VECTOR)
    w, s = _vectors(weights, block, VECTOR), _vectors(smoothings, block, VECTOR)
    f = taps + block * (TAPS * VECTORS * VECTOR)
    shape = shapes + block * (3 * J * VECTORS * VECTOR)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first, row, columns = _place(tile, height, width, CHANNELS, SIZE)
        u = _responses(x + first, f, row, columns, height, width, CHANNELS, SIZE)
        r = _responses(v + first, f, row, columns, height, width, CHANNELS, SIZE)
        by_x, by_v, seen, reduced = (), (), (), ()
        for e in tl.static_range(VECTORS):
            by_w = tl.zeros((VECTOR, COLUMNS), x.dtype.element_ty)
            by_s = by_w
            for i in tl.static_range(ROWS):
                inside = _inside(row + i, columns, height - SIZE + 1, width - SIZE + 1)[None, :]
                along = tl.where(inside, r[e * ROWS + i], 0.0)
                t, a = u[e * ROWS + i], shape + e * VECTOR
                if ADAPTIVE:
                    g = _local(
                        contrasts, tile, (block * VECTORS + e) * VECTOR + k, row + i, columns, experts,
                        height - SIZE + 1, width - SIZE + 1,
                    )  # fmt: skip
                    t = g * t
                d, z = _curvature(t, w[e], s[e], a, POTENTIAL), _influence(t, w[e], s[e], a, POTENTIAL)
                if MASKED:
                    m = _local(
                        masks, tile, (block * VECTORS + e) * VECTOR + k, row + i, columns, experts,
                        height - SIZE + 1, width - SIZE + 1,
                    )  # fmt: skip
                    along = m * along
                by_x += (d * along,)
                pull = z
                if MASKED:
                    pull = m * pull
                if ADAPTIVE:
                    pull, along = pull / g, along / g
                by_v += (tl.where(inside, pull, 0.0),)
                seen += (t,)
                reduced += (along,)
                if POTENTIAL == "spline":
                    by_w += z / w[e] * along
                    by_s -= d * t / s[e] * along
                else:
                    by_w += _by_weight(t, w[e], s[e], a, POTENTIAL) * along
                    by_s += _by_smoothing(t, w[e], s[e], POTENTIAL) * along
            _add(mine + (TAPS * VECTORS + e) * VECTOR + k, tl.sum(by_w, 1))
            _add(mine + ((TAPS + 1) * VECTORS + e) * VECTOR + k, tl.sum(by_s, 1))
            for j in range(KNOTTED):  # by b
                tau = _of_knot(shape + e * VECTOR, 2 * J + j, VECTOR)
                total = tl.zeros((VECTOR, COLUMNS), x.dtype.element_ty)
                for i in tl.static_range(ROWS):
                    z = tl.minimum(tl.maximum(seen[e * ROWS + i] * (1 / s[e]), -tau), tau)
                    total += w[e] * z * reduced[e * ROWS + i]
                _add(mine + ((TAPS + 2 + j) * VECTORS + e) * VECTOR + k, tl.sum(total, 1))
        for c in range(CHANNELS):
            for q in range(SIZE):
                plane = first + c * (height.to(tl.int64) * width) + q
                x_rows = _rows(x + plane, row, columns + q, height, width, ROWS + SIZE - 1)
                v_rows = _rows(v + plane, row, columns + q, height, width, ROWS + SIZE - 1)
                for p in tl.static_range(SIZE):
                    for e in tl.static_range(VECTORS):
                        total = tl.zeros((VECTOR, COLUMNS), x.dtype.element_ty)
                        for i in tl.static_range(ROWS):
                            total += by_x[e * ROWS + i] * x_rows[i + p][None, :]
                            total += by_v[e * ROWS + i] * v_rows[i + p][None, :]
                        _add(mine + (((c * SIZE + q) * SIZE + p) * VECTORS + e) * VECTOR + k, tl.sum(total, 1))
        tl.debug_barrier()  # the next tile adds to what one thread has written


@dataclass(frozen=True)
class CudaKernel:
    """Calls the kernels of one potential; the formulas are those of `choice.CompiledKernel`."""

    potential: str

    def gradient(self, bank: Bank, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self._apply("gradient", bank, _packed(bank), x)[0]

    def hessian(self, bank: Bank, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        packed, x = _packed(bank), x.contiguous()  # C x is computed anew by every product
        return lambda v: self._apply("product", bank, packed, x, v)[0]

    def summary(self, bank: Bank, x: Tensor) -> tuple[Tensor, Tensor]:  # (B, C, H, W) -> (B, K), (B, C, H, W)
        diagonal, sums = self._apply("summary", bank, _packed(bank), x)
        return sums.view(len(x), -1, sums.shape[-1]).sum(1)[:, : len(bank.filters)], diagonal

    def mixed(self, bank: Bank, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        (channels, size), tiles = bank.filters.shape[1:3], _tiles(x, bank)
        x, packed = x.contiguous(), _packed(bank)
        blocks, experts = len(packed[0]), packed[1].numel()
        programs = min(tiles, max(1, PROGRAMS // blocks))
        taps, knots = channels * size**2, sum(t.shape[-1] for t in bank.parameters[3:])
        sums = x.new_zeros(programs, blocks, taps + 2 + knots, experts // blocks)
        with torch.cuda.device_of(x):
            _derivatives[programs, blocks](
                x, q.contiguous(), *packed, sums, *x.shape[2:], len(bank.filters), tiles,
                bank.contrasts is not None, bank.masks is not None, self.potential, channels, size, **OPTIONS,
            )  # fmt: skip
        found = bank.scale * sums.sum(0, dtype=torch.float64).transpose(0, 1).reshape(-1, experts)
        found = found[:, : len(bank.filters)].T
        # a_j is in b_j and, with the other sign, in b_{j-1}.
        by_shape = found[:, taps + 2 :].diff(dim=1, prepend=found.new_zeros(len(found), 1 if knots else 0))
        by_filters = found[:, :taps].unflatten(1, (channels, size, size)).transpose(2, 3)
        every = by_filters, *found[:, taps : taps + 2, None, None].unbind(1), by_shape
        return tuple(t.to(x.dtype) for t in every[: len(bank.parameters)])

    def _apply(
        self, mode: str, bank: Bank, packed: tuple[Tensor, ...], x: Tensor, v: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        (channels, size), tiles = bank.filters.shape[1:3], _tiles(x, bank)
        x, blocks = x.contiguous(), len(packed[0])
        groups = max(1, min(blocks, PROGRAMS // tiles))
        parts = x.new_zeros(groups, tiles, channels, ROWS.value + size - 1, COLUMNS.value + size - 1)
        sums = x.new_empty(tiles if mode == "summary" else 0, packed[1].numel())
        along = x if v is None else v.contiguous()
        image = torch.empty_like(x)
        sizes = x.shape[2:]
        programs = math.prod(x.shape[:2]) * triton.cdiv(math.prod(sizes), PIXELS.value)
        with torch.cuda.device_of(x):
            _parts[tiles, groups](
                x, along, *packed, parts, sums, *sizes, len(bank.filters), blocks, tiles,
                mode, bank.contrasts is not None, bank.masks is not None, self.potential, channels, size, **OPTIONS,
            )  # fmt: skip
            _sum_parts[programs,](parts, image, *sizes, tiles, groups, bank.scale, channels, size, **FUSED)
        return image, sums


def _tiles(x: Tensor, bank: Bank) -> int:
    size = bank.filters.shape[-1]
    down, across = triton.cdiv(x.shape[2] - size + 1, ROWS.value), triton.cdiv(x.shape[3] - size + 1, COLUMNS.value)
    return len(x) * down * across


def _packed(bank: Bank) -> tuple[Tensor, ...]:
    """Return filters as (block, c, q, p, expert), weights, smoothings, a, b and tau of a spline as (block, 3, j,
    expert), and contrasts and masks as they are. Zero filters fill the last block."""
    experts, together = len(bank.filters), VECTORS.value * 16 // bank.filters.element_size()
    blocks = triton.cdiv(experts, together)
    missing = (0, blocks * together - experts)
    filters = pad(bank.filters, (0, 0, 0, 0, 0, 0, *missing)) if missing[1] else bank.filters
    weights, smoothings = (pad(t.flatten(), missing, value=1.0) for t in (bank.weights, bank.smoothings))
    taps = filters.unflatten(0, (blocks, together)).permute(0, 2, 4, 3, 1).contiguous()
    shapes = taps.new_empty(0)
    for a in bank.parameters[3:]:
        b, tau = a - pad(a[:, 1:], (0, 1)), a.new_tensor(KNOTS).expand_as(a)
        table = pad(torch.stack((a, b, tau), 1), (0, 0, 0, 0, *missing))
        shapes = table.unflatten(0, (blocks, together)).permute(0, 2, 3, 1).contiguous()
    planes = (taps.new_empty(0) if t is None else t.contiguous() for t in (bank.contrasts, bank.masks))
    return taps, weights, smoothings, shapes, *planes


@cache
def compiled_kernel(potential: str) -> CudaKernel | None:
    """Return the kernels of a potential; None, after a warning, where there is no Triton, or an old one."""
    if UNUSABLE is None:
        return CudaKernel(potential)
    warnings.warn(
        f"no Triton, so fields of experts run in torch alone on this GPU: {UNUSABLE}", RuntimeWarning, stacklevel=2
    )
    return None
