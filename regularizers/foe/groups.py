"""Potentials of groups: u are d filter responses at one pixel, and N is a norm on R^d (arXiv 2508.06490).

    huber   phi(u) = w M_s(u)                     convex,        0 <= phi'' <= w / s
    mcp     phi(u) = w M_s(u) - v M_v(Q u)        weakly convex, -1 <= phi'' <= w / s

    M_a(u) = min_z N(z) + |u - z|^2 / (2 a) = <p, u> - a |p|^2 / 2,    M_a'(u) = p = P(u / a),

P the projection onto the unit ball of the norm that is dual to N. For d = 1 and Q = 1, v = w these are the potentials
of potentials.py. P is a derivative of a convex function and nonexpansive, so 0 <= M_a'' <= 1 / a, and with ||Q|| = 1
the concave part has a curvature of at most 1: the budget of `mcp`, whatever is learned. Where s <= w and v N(Q u) <=
w N(u), phi >= 0, as v M_v(Q u) <= min_z v N(Q z) + |Q (u - z)|^2 / 2 <= w M_w(u) <= w M_s(u).

    l2     N(u) = |u|            P(z) = z / max(1, |z|): edges of all directions cost the same
    linf   N(u) = max_i |u_i|    P(z) = sign(z) max(|z| - tau, 0), the projection onto the l1 ball, with
                                 tau = max(0, max_j (sum of the j largest |z_i| - 1) / j)

Responses are (..., K, H, W), a group being d that follow each other; w and s are (K / d, 1, 1). The shape of `mcp`,
(K / d, 1 + d^2), is v and the rows of Q.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regularizers.foe.potential import smoothing_below
from regularizers.functional import RegularizerError

KINDS = ("huber", "mcp")
NORMS = ("l2", "linf")
SIZES = (2, 4)  # d


@dataclass(frozen=True, kw_only=True)
class GroupPotential:
    """A potential of groups of `size` responses; without a shape it is `huber`, or `mcp` of no parameters yet.

    The methods are those of `potential.Potential`.
    """

    kind: str
    norm: str
    size: int
    shape: Tensor | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.norm}"

    @property
    def budgeted(self) -> bool:
        return self.kind == "mcp"

    def at(self, weights: Tensor, matrices: Tensor) -> "GroupPotential":  # (G, 1, 1), (G, d, d)
        """Return `mcp` with Q = m / ||m||, v = w ||m||, where m is a matrix divided by its norm from N to N, if that is
        above 1: N(m u) <= N(u). No constraint is left for the matrices."""
        norm = _spectral(matrices)
        by_n = norm if self.norm == "l2" else matrices.abs().sum(2).amax(1)
        v = weights.flatten() * norm / by_n.clamp(min=1)
        return replace(self, shape=torch.cat([v[:, None], (matrices / norm[:, None, None]).flatten(1)], 1))

    def smoothing(self, w: Tensor, unconstrained: Tensor) -> Tensor:
        return smoothing_below(w, unconstrained) if self.budgeted else unconstrained.exp()

    def largest_curvature(self, w: Tensor, s: Tensor) -> Tensor:
        return w / s

    def weak_convexity(self, w: Tensor, s: Tensor) -> Tensor:
        return torch.ones_like(w) if self.budgeted else torch.zeros_like(w)

    def value(self, t: Tensor, w: Tensor, s: Tensor) -> Tensor:
        u = self._groups(t)
        value = w * self._envelope(u, s)
        if self.shape is None:
            return value
        v, q = self._concave
        return value - v * self._envelope(q(u), v)

    def influence(self, t: Tensor, w: Tensor, s: Tensor) -> Tensor:
        u = self._groups(t)
        influence = self._project(u / _up(s))
        if self.shape is not None:
            v, q = self._concave
            influence = influence - _up(v / w) * q.adjoint(self._project(q(u) / _up(v)))
        return influence.flatten(-4, -3)

    def curvature(self, t: Tensor, w: Tensor, s: Tensor) -> Tensor:
        """Return the diagonal of phi''."""
        u = self._groups(t)
        diagonal, normal = self._slope(u / _up(s))
        curvature = _up(w / s) * (diagonal - normal.square())
        if self.shape is not None:
            v, q = self._concave
            diagonal, normal = self._slope(q(u) / _up(v))
            curvature = curvature - (q.squared.adjoint(diagonal) - q.adjoint(normal).square())
        return curvature.flatten(-4, -3)

    def hessian(self, t: Tensor, w: Tensor, s: Tensor) -> Callable[[Tensor], Tensor]:
        u = self._groups(t)
        convex = self._slope(u / _up(s))
        if self.shape is None:
            return lambda y: (_up(w / s) * _times(convex, self._groups(y))).flatten(-4, -3)
        v, q = self._concave
        concave = self._slope(q(u) / _up(v))

        def product(y: Tensor) -> Tensor:
            y = self._groups(y)
            return (_up(w / s) * _times(convex, y) - q.adjoint(_times(concave, q(y)))).flatten(-4, -3)

        return product

    def mixed(self, t: Tensor, y: Tensor, w: Tensor, s: Tensor) -> Iterator[Tensor]:
        u, y = self._groups(t), self._groups(y)
        z = u / _up(s)
        yield (self._project(z) * y).sum(-3)
        yield -(w / s) * (_times(self._slope(z), z) * y).sum(-3)
        if self.shape is None:
            return
        v, q = self._concave
        z, y_turned = q(u) / _up(v), q(y)
        p, slope = self._project(z), self._slope(z)
        along = _times(slope, y_turned)
        yield (along * z - p * y_turned).sum(-3)
        for i in range(self.size):
            for j in range(self.size):
                yield -v * p.select(-3, i) * y.select(-3, j) - along.select(-3, i) * u.select(-3, j)

    def slopes(self, t: Tensor, w: Tensor, s: Tensor) -> Iterator[Tensor]:
        u = self._groups(t)
        yield self._envelope(u, s)
        yield -w / 2 * self._project(u / _up(s)).square().sum(-3)
        if self.shape is None:
            return
        v, q = self._concave
        turned = q(u)
        p = self._project(turned / _up(v))
        yield v * p.square().sum(-3) - (p * turned).sum(-3)
        for i in range(self.size):
            for j in range(self.size):
                yield -v * p.select(-3, i) * u.select(-3, j)

    def _groups(self, t: Tensor) -> Tensor:  # (..., K, H, W) -> (..., K / d, d, H, W)
        return t.unflatten(-3, (-1, self.size))

    @property
    def _concave(self) -> "tuple[Tensor, _Matrices]":
        """Return v and Q of each group."""
        assert self.shape is not None
        v, *_ = self.shape.split((1, self.size**2), 1)
        return v.unsqueeze(-1), _Matrices(self.shape[:, 1:].unflatten(1, (self.size, self.size)))

    def _envelope(self, u: Tensor, a: Tensor) -> Tensor:
        """Return M_a(u) of each group."""
        p = self._project(u / _up(a))
        return (p * u).sum(-3) - a / 2 * p.square().sum(-3)

    def _project(self, z: Tensor) -> Tensor:
        if self.norm == "l2":
            return z * _shrinkage(z)
        return z.sign() * (z.abs() - _threshold(z)).clamp(min=0)

    def _slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the diagonal m and the vector n of P'(z) = diag(m) - n n^T."""
        if self.norm == "l2":
            shrinkage = _shrinkage(z)
            return shrinkage.expand_as(z), z * shrinkage.pow(1.5) * (shrinkage < 1)
        threshold = _threshold(z)
        inside, kept = threshold <= 0, (z.abs() > threshold).to(z.dtype)
        return kept.masked_fill(inside, 1), z.sign() * kept * ~inside / kept.sum(-3, keepdim=True).clamp(min=1).sqrt()


@dataclass(frozen=True)
class _Matrices:
    """Holds one matrix (G, d, d) for each group of (..., G, d, H, W)."""

    entries: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        return torch.einsum("gij,...gjhw->...gihw", self.entries, u)

    def adjoint(self, u: Tensor) -> Tensor:
        return torch.einsum("gij,...gihw->...gjhw", self.entries, u)

    @property
    def squared(self) -> "_Matrices":
        """Return the matrices whose entries are the squares."""
        return _Matrices(self.entries.square())


def group_potential(kind: str, norm: str, size: int) -> GroupPotential:
    """Return `huber` or `mcp` of a norm on groups. Raises RegularizerError where there is none."""
    for name, value, known in (("potential", kind, KINDS), ("group_norm", norm, NORMS), ("group_size", size, SIZES)):
        if value not in known:
            raise RegularizerError(f"{name} of groups must be {' or '.join(map(str, known))}, not {value}")
    return GroupPotential(kind=kind, norm=norm, size=size)


def _up(of_groups: Tensor) -> Tensor:  # (G, 1, 1) -> (G, 1, 1, 1)
    return of_groups.unsqueeze(-1)


def _times(slope: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    diagonal, normal = slope
    return diagonal * y - normal * (normal * y).sum(-3, keepdim=True)


def _shrinkage(z: Tensor) -> Tensor:  # 1 / max(1, |z|)
    return z.square().sum(-3, keepdim=True).clamp(min=1).rsqrt()


def _threshold(z: Tensor) -> Tensor:  # tau
    largest = z.abs().sort(dim=-3, descending=True).values.cumsum(-3)
    counts = torch.arange(1, z.shape[-3] + 1, device=z.device, dtype=z.dtype).view(-1, 1, 1)
    return ((largest - 1) / counts).amax(-3, keepdim=True).clamp(min=0)


def _spectral(matrices: Tensor) -> Tensor:  # (G, d, d) -> (G,)
    return torch.linalg.matrix_norm(matrices, 2)
