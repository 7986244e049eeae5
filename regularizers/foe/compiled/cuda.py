"""The compiled kernel of a GPU: a field of experts R(x) = scale sum_k sum_i phi((c_k * x)_i; w_k, s_k) in Triton. It
computes the gradient, Hessian-vector products and derivatives by the parameters, also with contrasts and masks; the
formulas are those of regularizers/foe/functional.py. Nothing of size K x H x W is written.

A program of one warp takes a tile of ROWS x COLUMNS responses of a block of experts at a time into its registers, a
column per thread: an image row, once loaded, serves all filter rows and experts, a vector of taps all rows of the tile.
phi may be a potential of d responses together. Then a block has d vectors of experts, one for each response of its
groups, and the d responses of a group are in the registers of one thread. Groups have w, s, contrasts and masks.
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
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAssignmentType=false
# pyright: reportAttributeAccessIssue=false

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from regularizers.foe.compiled.bank import Bank
from regularizers.foe.compiled.cuda_potentials import by_bend, by_parameters, curvature, influence, local, product
from regularizers.foe.compiled.language import UNUSABLE, absolute, added, divided, jit, scaled, tl, triton
from regularizers.foe.spline import KNOTS

ROWS, COLUMNS = tl.constexpr(8), tl.constexpr(32)
BLOCK_BITS = tl.constexpr(256)  # of the taps of a block of experts at one pixel
PIXELS = tl.constexpr(256)  # of a program that adds parts
PROGRAMS = 1584  # 12 warps, as many as have registers, on each multiprocessor of an H200
FUSED = {"enable_fp_fusion": True}  # a product and a sum in one instruction: Triton 3.10 no longer does so unasked
# More registers would only hold what is loaded early, while other warps hide the wait; fewer spill within the loops.
OPTIONS = {"num_warps": 1, "num_stages": 1, "maxnreg": 168, **FUSED}


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
def _vectors(values, place, VECTOR: tl.constexpr, N: tl.constexpr):
    """Return N vectors of values."""
    vectors = ()
    for e in tl.static_range(N):
        vectors += (tl.load(values + (place * N + e) * VECTOR + tl.arange(0, VECTOR))[:, None],)
    return vectors


@jit
def _wide(vectors):
    """Return vectors as tiles. The compiler would lay out anew whatever is widened where it is used."""
    tiles = ()
    for e in tl.static_range(len(vectors)):
        tiles += (tl.broadcast_to(vectors[e], (vectors[e].shape[0], COLUMNS)),)
    return tiles


@jit
def _shape(shapes, place, VECTOR: tl.constexpr, GROUP: tl.constexpr, SHAPE: tl.constexpr):
    """Return the numbers of a vector of groups, or where the table of a vector of splines is."""
    return shapes + place * (3 * SHAPE * VECTOR) if GROUP == 1 else _wide(_vectors(shapes, place, VECTOR, SHAPE))


@jit
def _plane(plane, tile, k, i, columns, groups, height, width):
    """Return the contrasts, or masks, of groups k in row i of the tile's image, (vector, COLUMNS).

    The parameters height and width are those of the responses.
    """
    down, across = tl.cdiv(height, ROWS), tl.cdiv(width, COLUMNS)
    place = (tile // (across * down)).to(tl.int64) * groups + k
    known = (k < groups)[:, None] & _inside(i, columns, height, width)[None, :]
    return tl.load(plane + (place[:, None] * height + i) * width + columns[None, :], known, 1.0)


@jit
def _group(u, n, i, GROUP: tl.constexpr):
    """Return the responses in row i of the groups of vector n. Responses are ordered by vector, response of a group and
    row."""
    return u[n * GROUP * ROWS + i : (n + 1) * GROUP * ROWS : ROWS]


@jit
def _by_response(rows, GROUP: tl.constexpr):
    """Return values ordered by response and row that are ordered by row and response."""
    values = ()
    for r in tl.static_range(GROUP):
        values += rows[r::GROUP]
    return values


@jit
def _weighed(values, masks, tile, k, i, columns, groups, height, width, MASKED: tl.constexpr):
    """Return values of groups times masks, where there are any, and 0 beyond the border; parameters as in `_plane`."""
    if MASKED:
        values = scaled(values, _plane(masks, tile, k, i, columns, groups, height, width))
    inside = _inside(i, columns, height, width)[None, :]
    weighed = ()
    for r in tl.static_range(len(values)):
        weighed += (tl.where(inside, values[r], 0.0),)
    return weighed


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
def _responses(
    image, taps, row, columns, height, width, VECTORS: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr
):
    """Return u = C x on the tile: (vector, row) -> u[vector * ROWS + row]. Triton takes sizes as parameters."""
    dtype: tl.constexpr = image.dtype.element_ty
    VECTOR: tl.constexpr = BLOCK_BITS // dtype.primitive_bitwidth // VECTORS
    u = _zeros(VECTORS * ROWS, VECTOR, dtype)
    for c in range(CHANNELS):
        for q in range(SIZE):
            plane = image + c * (height.to(tl.int64) * width) + q
            x = _rows(plane, row, columns + q, height, width, ROWS + SIZE - 1)
            for p in tl.static_range(SIZE):
                f = _vectors(taps, (c * SIZE + q) * SIZE + p, VECTOR, VECTORS)
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
    VECTORS: tl.constexpr = len(z) // ROWS
    N: tl.constexpr = ROWS + SIZE - 1
    for c in range(CHANNELS):
        for q in range(SIZE):
            g = _zeros(N, VECTOR, z[0].dtype)
            for p in tl.static_range(SIZE):
                f = _vectors(taps, (c * SIZE + q) * SIZE + p, VECTOR, VECTORS)
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
    x, v, taps, weights, smoothings, shapes, contrasts, masks, parts, sums, height, width, groups, blocks, tiles,
    MODE: tl.constexpr, ADAPTIVE: tl.constexpr, MASKED: tl.constexpr, POTENTIAL: tl.constexpr, NORM: tl.constexpr,
    GROUP: tl.constexpr, SHAPE: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Compute what a tile adds to scale^-1 dR/dx, to a product with v, or to the summary, whose sums are (tile, k).

    A Triton kernel takes its tensors one by one and all sizes as parameters; one launch is one function of many lines.
    """
    tile, share = tl.program_id(0), tl.program_id(1)
    VECTORS: tl.constexpr = 2 if GROUP == 1 else GROUP
    VECTOR: tl.constexpr = BLOCK_BITS // x.dtype.element_ty.primitive_bitwidth // VECTORS
    N: tl.constexpr = VECTORS // GROUP  # vectors of groups
    first, row, columns = _place(tile, height, width, CHANNELS, SIZE)
    down, across = height - SIZE + 1, width - SIZE + 1
    part = parts + (share.to(tl.int64) * tiles + tile) * (CHANNELS * (ROWS + SIZE - 1) * (COLUMNS + SIZE - 1))
    for block in range(share, blocks, tl.num_programs(1)):
        w, s = _vectors(weights, block, VECTOR, N), _vectors(smoothings, block, VECTOR, N)
        if GROUP > 1:
            w, s = _wide(w), _wide(s)
        f = taps + block * (CHANNELS * SIZE * SIZE * VECTORS * VECTOR)
        u = _responses(x + first, f, row, columns, height, width, VECTORS, CHANNELS, SIZE)
        z = ()
        for n in tl.static_range(N):
            k = (block * N + n) * VECTOR + tl.arange(0, VECTOR)
            shape = _shape(shapes, block * N + n, VECTOR, GROUP, SHAPE)
            rows = ()
            for i in tl.static_range(ROWS):
                t = _group(u, n, i, GROUP)
                if ADAPTIVE:
                    g = _plane(contrasts, tile, k, row + i, columns, groups, down, across)
                    t = scaled(t, g)
                if MODE == "gradient":
                    t = influence(t, w[n], s[n], shape, POTENTIAL, NORM)
                    if ADAPTIVE:
                        t = divided(t, g)
                elif MODE == "summary":
                    t = absolute(curvature(t, w[n], s[n], shape, POTENTIAL, NORM))
                else:
                    t = local(t, w[n], s[n], shape, POTENTIAL)
                if MODE != "product" or GROUP == 1:
                    t = _weighed(t, masks, tile, k, row + i, columns, groups, down, across, MASKED)
                rows += t
            z += _by_response(rows, GROUP)
        if MODE == "product":
            r = _responses(v + first, f, row, columns, height, width, VECTORS, CHANNELS, SIZE)
            d, z = z, ()
            for n in tl.static_range(N):
                k = (block * N + n) * VECTOR + tl.arange(0, VECTOR)
                shape = _shape(shapes, block * N + n, VECTOR, GROUP, SHAPE)
                rows = ()
                for i in tl.static_range(ROWS):
                    t = product(_group(d, n, i, GROUP), _group(r, n, i, GROUP), w[n], s[n], shape, POTENTIAL, NORM)
                    if GROUP > 1:
                        t = _weighed(t, masks, tile, k, row + i, columns, groups, down, across, MASKED)
                    rows += t
                z += _by_response(rows, GROUP)
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
    parts, image, height, width, tiles, shares, SCALE: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr
):
    """Compute every pixel from the parts that reach it. Triton takes all sizes as parameters."""
    programs = tl.cdiv(height * width, PIXELS)
    plane, pixel = tl.program_id(0) // programs, tl.program_id(0) % programs * PIXELS + tl.arange(0, PIXELS)
    down, across = tl.cdiv(height - SIZE + 1, ROWS), tl.cdiv(width - SIZE + 1, COLUMNS)
    N: tl.constexpr = ROWS + SIZE - 1
    M: tl.constexpr = COLUMNS + SIZE - 1
    total = tl.zeros((PIXELS,), image.dtype.element_ty)
    for share in range(shares):
        for a in tl.static_range((N + ROWS - 1) // ROWS):
            for b in tl.static_range((M + COLUMNS - 1) // COLUMNS):
                i, j = pixel // width // ROWS - a, pixel % width // COLUMNS - b
                n, m = pixel // width - i * ROWS, pixel % width - j * COLUMNS
                reached = (i >= 0) & (i < down) & (n < N) & (j >= 0) & (j < across) & (m < M)
                tile = share * tiles + (plane // CHANNELS * down + i) * across + j
                at = ((tile.to(tl.int64) * CHANNELS + plane % CHANNELS) * N + n) * M + m
                total += tl.load(parts + at, reached & (pixel < height * width), 0.0)
    tl.store(image + plane.to(tl.int64) * height * width + pixel, total * SCALE, pixel < height * width)


@jit
def _derivatives(
    x, v, taps, weights, smoothings, shapes, contrasts, masks, sums, height, width, groups, tiles,
    ADAPTIVE: tl.constexpr, MASKED: tl.constexpr, POTENTIAL: tl.constexpr, NORM: tl.constexpr, GROUP: tl.constexpr,
    SHAPE: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Compute derivatives of scale^-1 <dR/dx, v> by a block's taps, weights, smoothings and shapes, of a spline by b,
    over every num_programs-th tile. Its parameters and lines are many, as those of `_parts`."""
    block = tl.program_id(1)
    VECTORS: tl.constexpr = 2 if GROUP == 1 else GROUP
    VECTOR: tl.constexpr = BLOCK_BITS // x.dtype.element_ty.primitive_bitwidth // VECTORS
    N: tl.constexpr = VECTORS // GROUP
    TAPS: tl.constexpr = CHANNELS * SIZE * SIZE
    BENDS: tl.constexpr = SHAPE if POTENTIAL == "spline" else 0
    SUMS: tl.constexpr = 2 + SHAPE - BENDS  # over all rows at a time
    lane = tl.arange(0, VECTOR)
    mine = tl.program_id(0) * tl.num_programs(1) + block
    by_taps = sums + mine * ((TAPS * VECTORS + (2 + SHAPE) * N) * VECTOR) + lane
    by_rest = by_taps + TAPS * VECTORS * VECTOR
    w, s = _vectors(weights, block, VECTOR, N), _vectors(smoothings, block, VECTOR, N)
    if GROUP > 1:
        w, s = _wide(w), _wide(s)
    f = taps + block * (TAPS * VECTORS * VECTOR)
    down, across = height - SIZE + 1, width - SIZE + 1
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first, row, columns = _place(tile, height, width, CHANNELS, SIZE)
        u = _responses(x + first, f, row, columns, height, width, VECTORS, CHANNELS, SIZE)
        r = _responses(v + first, f, row, columns, height, width, VECTORS, CHANNELS, SIZE)
        by_x, by_v = (), ()
        for n in tl.static_range(N):
            k = (block * N + n) * VECTOR + lane
            shape = _shape(shapes, block * N + n, VECTOR, GROUP, SHAPE)
            of_tile = _zeros(SUMS, VECTOR, x.dtype.element_ty)
            bent, pulls, seen, along = (), (), (), ()
            for i in tl.static_range(ROWS):
                t, y = _group(u, n, i, GROUP), _group(r, n, i, GROUP)
                y = _weighed(y, masks, tile, k, row + i, columns, groups, down, across, MASKED)
                if ADAPTIVE:
                    g = _plane(contrasts, tile, k, row + i, columns, groups, down, across)
                    t = scaled(t, g)
                d, z = local(t, w[n], s[n], shape, POTENTIAL), influence(t, w[n], s[n], shape, POTENTIAL, NORM)
                bent += product(d, y, w[n], s[n], shape, POTENTIAL, NORM)
                pull = _weighed(z, masks, tile, k, row + i, columns, groups, down, across, MASKED)
                if ADAPTIVE:
                    y, pull = divided(y, g), divided(pull, g)
                pulls += pull
                seen += t
                along += y
                of_tile = added(of_tile, by_parameters(t, y, z, d, w[n], s[n], shape, POTENTIAL, NORM))
            by_x += _by_response(bent, GROUP)
            by_v += _by_response(pulls, GROUP)
            for j in tl.static_range(SUMS):
                _add(by_rest + (j * N + n) * VECTOR, tl.sum(of_tile[j], 1))
            if POTENTIAL == "spline":
                for j in range(BENDS):
                    by_b = tl.zeros((VECTOR, COLUMNS), x.dtype.element_ty)
                    for i in tl.static_range(ROWS):
                        by_b += by_bend(seen[i], along[i], w[n], s[n], shape, j)
                    _add(by_rest + ((SUMS + j) * N + n) * VECTOR, tl.sum(by_b, 1))
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
                        _add(by_taps + (((c * SIZE + q) * SIZE + p) * VECTORS + e) * VECTOR, tl.sum(total, 1))
        tl.debug_barrier()  # the next tile adds to what one thread has written


@dataclass(frozen=True, kw_only=True)
class CudaKernel:
    """Calls the kernels of one potential; the formulas are those of `choice.CompiledKernel`."""

    potential: str
    norm: str = ""  # of groups
    group_size: int = 1

    def gradient(self, bank: Bank, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self._apply("gradient", bank, self._packed(bank), x)[0]

    def hessian(self, bank: Bank, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        packed, x = self._packed(bank), x.contiguous()  # C x is computed anew by every product
        return lambda v: self._apply("product", bank, packed, x, v)[0]

    def summary(self, bank: Bank, x: Tensor) -> tuple[Tensor, Tensor]:  # (B, C, H, W) -> (B, K), (B, C, H, W)
        diagonal, sums = self._apply("summary", bank, self._packed(bank), x)
        sums = sums.view(len(x), -1, sums.shape[-1]).sum(1).view(-1, *self._block(x)).transpose(2, 3)
        return sums.reshape(len(x), -1)[:, : len(bank.filters)], diagonal

    def mixed(self, bank: Bank, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        (channels, size), tiles = bank.filters.shape[1:3], _tiles(x, bank)
        x, packed = x.contiguous(), self._packed(bank)
        block, blocks = self._block(x), len(packed[0])
        programs = min(tiles, max(1, PROGRAMS // blocks))
        taps, rest = channels * size**2 * math.prod(block), 2 + _numbers(bank)
        sums = x.new_zeros(programs, blocks, taps + rest * block[0] * block[2])
        with torch.cuda.device_of(x):
            _derivatives[programs, blocks](
                x, q.contiguous(), *packed, sums, *x.shape[2:], len(bank.weights), tiles,
                *self._constants(bank), channels, size, **OPTIONS,
            )  # fmt: skip
        found = bank.scale * sums.sum(0, dtype=torch.float64)
        by_filters = found[:, :taps].view(-1, channels, size, size, *block).permute(0, 4, 6, 5, 1, 3, 2)
        by_rest = found[:, taps:].view(blocks, rest, -1).transpose(1, 2).reshape(-1, rest)[: len(bank.weights)]
        by_shape = by_rest[:, 2:]
        if self.potential == "spline":  # a_j is in b_j and, with the other sign, in b_{j-1}
            by_shape = by_shape.diff(dim=1, prepend=by_shape.new_zeros(len(by_shape), 1))
        by_filters = by_filters.reshape(-1, channels, size, size)[: len(bank.filters)]
        every = by_filters, *by_rest[:, :2, None, None].unbind(1), by_shape
        return tuple(t.to(x.dtype) for t in every[: len(bank.parameters)])

    def _apply(
        self, mode: str, bank: Bank, packed: tuple[Tensor, ...], x: Tensor, v: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        (channels, size), tiles = bank.filters.shape[1:3], _tiles(x, bank)
        x, blocks = x.contiguous(), len(packed[0])
        shares = max(1, min(blocks, PROGRAMS // tiles))
        parts = x.new_zeros(shares, tiles, channels, ROWS.value + size - 1, COLUMNS.value + size - 1)
        sums = x.new_empty(tiles if mode == "summary" else 0, blocks * math.prod(self._block(x)))
        along = x if v is None else v.contiguous()
        image = torch.empty_like(x)
        sizes = x.shape[2:]
        programs = math.prod(x.shape[:2]) * triton.cdiv(math.prod(sizes), PIXELS.value)
        with torch.cuda.device_of(x):
            _parts[tiles, shares](
                x, along, *packed, parts, sums, *sizes, len(bank.weights), blocks, tiles,
                mode, *self._constants(bank), channels, size, **OPTIONS,
            )  # fmt: skip
            _sum_parts[programs,](parts, image, *sizes, tiles, shares, bank.scale, channels, size, **FUSED)
        return image, sums

    def _constants(self, bank: Bank) -> tuple[bool | str | int, ...]:
        """Return what the kernels are compiled for, beside the channels and the size of filters."""
        planes = bank.contrasts is not None, bank.masks is not None
        return *planes, self.potential, self.norm, self.group_size, _numbers(bank)

    def _block(self, x: Tensor) -> tuple[int, int, int]:
        """Return how many vectors of groups are in a block, how many responses in a group and groups in a vector."""
        vectors = max(2, self.group_size)
        return vectors // self.group_size, self.group_size, BLOCK_BITS.value // 8 // x.element_size() // vectors

    def _packed(self, bank: Bank) -> tuple[Tensor, ...]:
        """Return filters as (block, c, q, p, vector, response of a group, group), weights, smoothings, shapes as
        (vector, j, group), of a spline b and tau behind a, and contrasts and masks as they are. Zero filters fill the
        last block."""
        block, groups = self._block(bank.filters), len(bank.weights)
        together = block[0] * block[2]
        missing = -groups % together
        filters = pad(bank.filters, (0, 0, 0, 0, 0, 0, 0, missing * self.group_size)) if missing else bank.filters
        taps = filters.unflatten(0, (-1, block[0], block[2], block[1])).permute(0, 4, 6, 5, 1, 3, 2).contiguous()
        weights, smoothings = (pad(t.flatten(), (0, missing), value=1.0) for t in (bank.weights, bank.smoothings))
        shapes = taps.new_empty(0)
        for a in bank.parameters[3:]:
            tables = (
                (a, a - pad(a[:, 1:], (0, 1)), a.new_tensor(KNOTS).expand_as(a)) if self.potential == "spline" else (a,)
            )
            table = pad(torch.cat(tables, 1), (0, 0, 0, missing), value=1.0)
            shapes = table.unflatten(0, (-1, block[2])).transpose(1, 2).contiguous()
        planes = (taps.new_empty(0) if t is None else t.contiguous() for t in (bank.contrasts, bank.masks))
        return taps, weights, smoothings, shapes, *planes


def _numbers(bank: Bank) -> int:
    """Return how many numbers a shape has."""
    return sum(t.shape[1] for t in bank.parameters[3:])


def _tiles(x: Tensor, bank: Bank) -> int:
    size = bank.filters.shape[-1]
    down, across = triton.cdiv(x.shape[2] - size + 1, ROWS.value), triton.cdiv(x.shape[3] - size + 1, COLUMNS.value)
    return len(x) * down * across


@cache
def compiled_kernel(potential: str, group_size: int = 1) -> CudaKernel | None:
    """Return the kernels of a potential; None, after a warning, where there is no Triton, or an old one."""
    if UNUSABLE is None:
        kind, _, norm = potential.partition("_") if group_size > 1 else (potential, "", "")
        return CudaKernel(potential=kind, norm=norm, group_size=group_size)
    warnings.warn(
        f"no Triton, so fields of experts run in torch alone on this GPU: {UNUSABLE}", RuntimeWarning, stacklevel=2
    )
    return None
