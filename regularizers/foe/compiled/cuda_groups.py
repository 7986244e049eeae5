"""Potentials of groups of d responses on a GPU, as in regularizers/foe/groups.py: w M_s(u) - v M_v(Q u), or w M_s(u).

A group is a tuple of d tiles (vector, COLUMNS), one for each of its responses, so what a response needs of the others
is in the registers of its own thread. w, s and the numbers of a shape, v and the rows of Q, are such tiles.

With P the projection onto the unit ball of the dual norm, a P(z / a) is that onto the ball of radius a, and P'(z / a)
= diag(m) - c n n^T. So nothing is divided by a. For d = 4 and `linf`, `mcp` takes about 30 instructions per response of
a gradient and 50 of a product, beside the 2 C s^2 and 3 C s^2 of the filters.
"""

# The language of the kernels is not Python's.
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false

from regularizers.foe.compiled.language import dot, jit, scaled, subtracted, tl


@jit
def _turned(u, shape):
    """Return Q u."""
    turned = ()
    for i in tl.static_range(len(u)):
        total = shape[1 + i * len(u)] * u[0]
        for j in tl.static_range(1, len(u)):
            total += shape[1 + i * len(u) + j] * u[j]
        turned += (total,)
    return turned


@jit
def _turned_back(z, shape):
    """Return Q^T z."""
    turned = ()
    for j in tl.static_range(len(z)):
        total = shape[1 + j] * z[0]
        for i in tl.static_range(1, len(z)):
            total += shape[1 + i * len(z) + j] * z[i]
        turned += (total,)
    return turned


@jit
def _threshold(z, a):
    """Return the tau of `linf` for the ball of radius a, negative within the ball."""
    first, second = tl.abs(z[0]), tl.abs(z[1])
    above, total = tl.maximum(first, second), first + second
    if len(z) == 2:
        tau = tl.maximum(above - a, (total - a) * 0.5)
    else:  # the largest two are the larger ones of both pairs, or one pair
        third, fourth = tl.abs(z[2]), tl.abs(z[3])
        beside, pair = tl.maximum(third, fourth), third + fourth
        two = tl.maximum(above + beside, tl.maximum(total, pair))
        total += pair
        three = total - tl.minimum(tl.minimum(first, second), tl.minimum(third, fourth))
        tau = tl.maximum(tl.maximum(above, beside) - a, (two - a) * 0.5)
        tau = tl.maximum(tau, tl.maximum((three - a) * (1 / 3), (total - a) * 0.25))
    return tau


@jit
def _project(z, a, NORM: tl.constexpr):
    """Return a P(z / a)."""
    if NORM == "l2":
        p = scaled(z, a * tl.rsqrt(tl.maximum(dot(z, z), a * a)))
    else:
        tau = tl.maximum(_threshold(z, a), 0.0)
        p = ()
        for i in tl.static_range(len(z)):
            p += (z[i] - tl.minimum(tl.maximum(z[i], -tau), tau),)
    return p


@jit
def _slope(z, a, factor, NORM: tl.constexpr):
    """Return m, n and c of factor P'(z / a) = diag(m) - c n n^T."""
    m = ()
    if NORM == "l2":
        length = dot(z, z)
        r = tl.rsqrt(tl.maximum(length, a * a))
        shrinkage = factor * a * r
        for _ in tl.static_range(len(z)):
            m += (shrinkage,)
        n, c = z, tl.where(length > a * a, shrinkage * r * r, 0.0)
    else:
        tau = _threshold(z, a)
        n, kept, none = (), tl.zeros_like(tau), tl.zeros_like(tau)
        for i in tl.static_range(len(z)):
            sign = tl.where(z[i] > tau, none + 1, tl.where(z[i] < -tau, none - 1, none))
            kept += tl.abs(sign)
            m += (factor * tl.abs(sign),)
            n += (sign,)
        # 1 / kept, of those that rounding kept, too: m - c n n^T is never negative.
        c = none + factor
        for j in tl.static_range(2, len(z) + 1):
            c = tl.where(kept >= j, factor * (1 / j), c)
        c = tl.where(tau > 0, c, none)
    return m, n, c


@jit
def _bent(z, y, a, factor, NORM: tl.constexpr):
    """Return factor P'(z / a) y."""
    m, n, c = _slope(z, a, factor, NORM)
    along, bent = c * dot(n, y), ()
    for i in tl.static_range(len(z)):
        bent += (m[i] * y[i] - along * n[i],)
    return bent


@jit
def influence(u, w, s, shape, POTENTIAL: tl.constexpr, NORM: tl.constexpr):
    """Return phi'(u) of a vector of experts."""
    z = scaled(_project(u, s, NORM), w * (1 / s))
    if POTENTIAL == "mcp":
        v = shape[0]
        z = subtracted(z, _turned_back(_project(_turned(u, shape), v, NORM), shape))
    return z


@jit
def product(u, y, w, s, shape, POTENTIAL: tl.constexpr, NORM: tl.constexpr):
    """Return phi''(u) y. Its parameters are those of a Triton function, which takes all sizes."""
    z = _bent(u, y, s, w * (1 / s), NORM)
    if POTENTIAL == "mcp":
        v = shape[0]
        z = subtracted(z, _turned_back(_bent(_turned(u, shape), _turned(y, shape), v, 1.0, NORM), shape))
    return z


@jit
def curvature(u, w, s, shape, POTENTIAL: tl.constexpr, NORM: tl.constexpr):
    """Return the diagonal of phi''(u)."""
    m, n, c = _slope(u, s, w * (1 / s), NORM)
    d = ()
    for i in tl.static_range(len(u)):
        d += (m[i] - c * n[i] * n[i],)
    if POTENTIAL == "mcp":
        m, n, c = _slope(_turned(u, shape), shape[0], 1.0, NORM)
        along, concave = _turned_back(n, shape), ()
        for j in tl.static_range(len(u)):
            total = -c * along[j] * along[j]
            for i in tl.static_range(len(u)):
                q = shape[1 + i * len(u) + j]
                total += q * q * m[i]
            concave += (total,)
        d = subtracted(d, concave)
    return d


@jit
def by_parameters(u, y, w, s, shape, POTENTIAL: tl.constexpr, NORM: tl.constexpr):
    """Return the derivatives of <phi'(u), y> by w, s, v and the rows of Q: its parameters are a Triton function's."""
    inverse = 1 / s
    found = (inverse * dot(_project(u, s, NORM), y), dot(_bent(u, u, s, -w * inverse * inverse, NORM), y))
    if POTENTIAL == "mcp":
        v = shape[0]
        z, turned = _turned(u, shape), _turned(y, shape)
        p, along = _project(z, v, NORM), _bent(z, turned, v, 1.0, NORM)
        found += ((1 / v) * (dot(along, z) - dot(p, turned)),)
        for i in tl.static_range(len(u)):
            for j in tl.static_range(len(u)):
                found += (-p[i] * y[j] - along[i] * u[j],)
    return found
