"""Potentials on a GPU, phi(t; w, s) as in regularizers/foe/potentials.py and spline.py.

The responses t of a potential are a tuple of tiles (vector, COLUMNS): of one response here, of groups of them in
cuda_groups.py. w and s are (vector, 1). The shape of a spline is a table (3 J, vector) of a, b and tau.
"""

# The language of the kernels is not Python's.
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false

from regularizers.foe.compiled import cuda_groups
from regularizers.foe.compiled.language import jit, scaled, tl
from regularizers.foe.spline import KNOTS

J = tl.constexpr(len(KNOTS))  # of a spline


@jit
def _clip(t):
    return tl.minimum(tl.maximum(t, -1.0), 1.0)


@jit
def _of_knot(table, j, VECTOR: tl.constexpr):
    """Return row j of a table."""
    return tl.load(table + j * VECTOR + tl.arange(0, VECTOR))[:, None]


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
def influence(t, w, s, shape, POTENTIAL: tl.constexpr, NORM: tl.constexpr):
    """Return phi'(t) of a vector of experts."""
    if len(t) == 1:
        z = (_influence(t[0], w, s, shape, POTENTIAL),)
    else:
        z = cuda_groups.influence(t, w, s, shape, POTENTIAL, NORM)
    return z


@jit
def curvature(t, w, s, shape, POTENTIAL: tl.constexpr, NORM: tl.constexpr):
    """Return the diagonal of phi''(t)."""
    if len(t) == 1:
        d = (_curvature(t[0], w, s, shape, POTENTIAL),)
    else:
        d = cuda_groups.curvature(t, w, s, shape, POTENTIAL, NORM)
    return d


@jit
def local(t, w, s, shape, POTENTIAL: tl.constexpr):
    """Return what `product` needs of t: phi''(t), or the responses of a group themselves."""
    if len(t) == 1:
        t = (_curvature(t[0], w, s, shape, POTENTIAL),)
    return t


@jit
def product(local, y, w, s, shape, POTENTIAL: tl.constexpr, NORM: tl.constexpr):
    """Return phi''(t) y. Its parameters are those of a Triton function, which takes all sizes."""
    return scaled(y, local[0]) if len(y) == 1 else cuda_groups.product(local, y, w, s, shape, POTENTIAL, NORM)


@jit
def by_parameters(t, y, z, local, w, s, shape, POTENTIAL: tl.constexpr, NORM: tl.constexpr):
    """Return the derivatives of <phi'(t), y> by w, s and the shape of a group, z = phi'(t). Its parameters are many."""
    if len(t) > 1:
        found = cuda_groups.by_parameters(t, y, w, s, shape, POTENTIAL, NORM)
    elif POTENTIAL == "spline":
        found = (z[0] / w * y[0], -(local[0] * t[0] / s * y[0]))
    else:
        found = (_by_weight(t[0], w, s, shape, POTENTIAL) * y[0], _by_smoothing(t[0], w, s, POTENTIAL) * y[0])
    return found


@jit
def by_bend(t, y, w, s, shape, j):
    """Return the derivative of <phi'(t), y> by b_j of a spline."""
    tau = _of_knot(shape, 2 * J + j, t.shape[0])
    return w * tl.minimum(tl.maximum(t * (1 / s), -tau), tau) * y
