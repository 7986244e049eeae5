"""What a regularizer is to the rest of the program.

A `Functional` is R_theta for one fixed theta: a pure function of the image with its derivatives. A `Regularizer` owns
the parameters: it maps them, unconstrained, to a functional whose natural parameters (filters, weights, smoothings)
satisfy their constraints, and pulls gradients back through that map.

A regularizer of one's own overrides `value` and `curvature`, and autograd finds the derivatives. One with closed forms
overrides `functional`.
"""

import math
import warnings
from collections.abc import Callable
from copy import copy
from inspect import Parameter, signature
from typing import Any, Self

import torch
from deepinv.optim import Prior
from torch import Tensor

from regularizers.autograd import AutogradFunctional
from regularizers.conversion import converted
from regularizers.functional import Functional, RegularizerError, Sensitivity
from regularizers.noise_levels import REFERENCE, interpolate, require_known

FLOOR = 0.3  # units of eps L ||x||, near which gradients of shipped models in float32 no longer fall


class Regularizer(Prior):
    """A learned functional as an `nn.Module` and a `deepinv.optim.Prior`, whose names `fn`, `grad` and `prox` it keeps.

    noise_nodes: at how many noise levels that which depends on them is learned (`regularizers.noise_levels`); 0 for a
    regularizer that is the same at all levels.
    arguments: what the constructor was called with, by name, defaults included: the regularizer can be built again.
    has_sensitivity: whether `sensitivity` is known.
    updates: reconstructions after that of a guide, each conditioned on the one before.
    """

    arguments: dict[str, Any]
    has_sensitivity: bool = False
    updates: int = 1

    def __new__(cls, *args, **kwargs) -> Self:
        made = super().__new__(cls)
        object.__setattr__(made, "arguments", _bound(cls, args, kwargs))
        return made

    def __init__(self, noise_nodes: int = 0) -> None:
        super().__init__()
        self.explicit_prior = True
        self.noise_nodes, self.noise_level = noise_nodes, REFERENCE

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        """Return R(x_b), with R = 0 for constant images."""
        return self.functional().value(x)

    def curvature(self) -> tuple[float, float]:
        """Return (rho, L), proven: -rho <= d2R/dx2 <= L for every image and image size."""
        return self.frozen().curvature()

    def functional(self) -> Functional:
        """Return R_theta at the present parameters, differentiable in them; by autograd where it is not overridden.

        Raises RegularizerError where a class overrides neither this method nor both `value` and `curvature`.
        """
        if type(self).value is Regularizer.value or type(self).curvature is Regularizer.curvature:
            raise RegularizerError(f"{type(self).__name__} must override value(x) and curvature(), or functional()")
        return AutogradFunctional.of(self)

    def frozen(self) -> Functional:
        """Return R_theta at the present parameters, cut from the graph: what a solver iterates on. It stays what it is
        when the parameters move."""
        with torch.no_grad():
            return self.functional()

    def promoted(self) -> Self:
        """Return a copy in float64: its parameters, and what it is conditioned on, stay what they are."""
        return converted(self, torch.float64)

    def at(self, noise_level: float) -> Self:
        """Return R at this noise level: a view with the same parameters, where derivatives by them arrive.

        R itself where it is the same at all levels. Raises NoiseLevelError where nothing was learned.
        """
        if not self.noise_nodes:
            return self
        require_known(noise_level)
        view = copy(self)
        view.noise_level = noise_level
        return view

    def guide_at_level(self) -> "Regularizer | None":
        """Return the regularizer whose reconstruction z this one is conditioned on, at the same noise level.

        None for most, which depend on no other reconstruction.
        """
        return None

    def conditioned_on(self, z: Tensor) -> Self:  # (B, C, H, W)
        """Return R(.; z) for the images whose reconstructions by the guide are z.

        Raises RegularizerError for a regularizer that has no guide.
        """
        raise RegularizerError(f"{type(self).__name__} depends on no other reconstruction: it has no guide")

    def mixed_with_condition(self, x: Tensor, q: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # 2 x (B, C, H, W)
        """Return J^T q, and d/dz sum_b <dR/dx(x_b; z_b), q_b> (B, C, H, W).

        Raises RegularizerError for a regularizer that has no guide.
        """
        raise RegularizerError(f"{type(self).__name__} depends on no other reconstruction: it has no guide")

    def require_condition(self) -> None:
        """Raise RegularizerError where R depends on a reconstruction z that it was not given."""

    def fn(self, x: Tensor, sigma: float | Tensor | None = None, *args, **kwargs) -> Tensor:  # (B, C, H, W) -> (B,)
        """Return R(x_b): the name of `value` in deepinv.

        sigma: the noise level, of a regularizer for many; None: the present one. deepinv calls it g_param. Raises
        RegularizerError.
        """
        return self._prior(sigma).value(x)

    def grad(self, x: Tensor, sigma: float | Tensor | None = None, *args, **kwargs) -> Tensor:  # (B, C, H, W)
        """Return dR/dx (B, C, H, W), under deepinv's name, with the arguments of `fn`. Raises RegularizerError."""
        return self._prior(sigma).functional().gradient(x)

    def prox(
        self, x: Tensor, sigma: float | Tensor | None = None, *args, gamma: float = 1.0, max_iter_inter: int = 2000,
        tol_inter: float = 1e-5, **kwargs,
    ) -> Tensor:  # (B, C, H, W)  # fmt: skip
        """Return argmin_v 1/2 ||v - x||^2 + gamma R(v) (B, C, H, W), under deepinv's name, by accelerated gradients.

        sigma: as for `fn`.  tol_inter: of the error, relative to ||x||, as estimated; float32 may end above. Step sizes
        are those of the curvature, so `stepsize_inter` is not read. Raises RegularizerError where the minimiser may not
        be unique: gamma rho >= 1. Warns where max_iter_inter gradients do not suffice. The arguments are deepinv's.
        """
        prior, gamma = self._prior(sigma), float(gamma)
        rho, largest = (gamma * bound for bound in prior.curvature())
        if not rho < 1:
            raise RegularizerError(f"1/2 ||v - x||^2 + {gamma:g} R(v) is not provably convex: {gamma:g} rho = {rho:g}")
        mu, largest = 1 - rho, 1 + largest
        momentum = (largest**0.5 - mu**0.5) / (largest**0.5 + mu**0.5)
        enough = max(tol_inter * mu, FLOOR * torch.finfo(x.dtype).eps * largest) * x.norm()
        found = v = x
        for _ in range(max_iter_inter):
            g = v - x + gamma * prior.functional().gradient(v)
            last, found = found, v - g / largest
            if g.norm() <= enough:
                return found
            v = found + momentum * (found - last)
        warnings.warn(f"{max_iter_inter} gradients did not suffice for prox: raise max_iter_inter", stacklevel=2)
        return found

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        """Return J^T q = d/dtheta sum_b <dR/dx(x_b), q_b>, one tensor per parameter, in their order."""
        return self._derivative(lambda functional: functional.mixed(x, q))

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W)
        """Return d/dtheta sum_b R(x_b), one tensor per parameter, in their order."""
        return self._derivative(lambda functional: functional.slopes(x))

    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:  # 2 x (B, C, H, W), (B,)
        """Bound how far J and the Hessian can be from those at x, within this radius: proven, not estimated.

        Raises RegularizerError where no such bound is known; ask `has_sensitivity` first.
        """
        raise RegularizerError(
            f"how fast the second derivatives of {type(self).__name__} change is not known, so no error of a "
            "hypergradient is proven"
        )

    def _prior(self, sigma: float | Tensor | None) -> "Regularizer":
        """Return R as deepinv asks for it. Raises RegularizerError where that is not one function."""
        self.require_condition()
        if sigma is None or not self.noise_nodes:
            return self
        levels = torch.as_tensor(sigma).unique().tolist()
        if len(levels) != 1:
            raise RegularizerError(f"R takes one noise level at a time, not {len(levels)}")
        return self.at(levels[0])

    def _present(self, parameter: Tensor) -> Tensor:  # (N, ...) -> (...)
        """Return what a parameter that may depend on the noise level is at this one."""
        return interpolate(parameter, self.noise_level) if self.noise_nodes else parameter

    def _derivative(self, by_natural: Callable[[Functional], tuple[Tensor, ...]], *more: Tensor) -> tuple[Tensor, ...]:
        """Return derivatives by theta, and by more tensors, from those by the natural parameters. They are 0 by what is
        frozen (`requires_grad_(False)`), which so stays as it is."""
        with torch.enable_grad():
            functional = self.functional()
        with torch.no_grad():
            cotangents = by_natural(functional)
        pairs = [(n, c) for n, c in zip(functional.natural, cotangents, strict=True) if n.requires_grad]
        by = (*self.parameters(), *more)
        moving = [t for t in by if t.requires_grad]
        if not (pairs and moving):
            return tuple(map(torch.zeros_like, by))
        natural, cotangents = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(natural, moving, cotangents, materialize_grads=True))
        return tuple(next(found) if t.requires_grad else torch.zeros_like(t) for t in by)


def require_positive(**numbers: float) -> None:
    """Raise RegularizerError where a number, which is given by its name, is not above 0."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise RegularizerError(f"{name} = {number!r} must be above 0")


def require_regularizer(given: object) -> None:
    """Raise RegularizerError where something that is no regularizer was given for one."""
    if isinstance(given, type):
        raise RegularizerError(f"{given.__name__} is a class: give a regularizer, such as {given.__name__}(...)")
    if isinstance(given, Regularizer):
        if "_parameters" not in vars(given):
            raise RegularizerError(f"{type(given).__name__}.__init__ must call super().__init__() first")
        return
    hint = ": give its .regularizer" if isinstance(getattr(given, "regularizer", None), Regularizer) else ""
    raise RegularizerError(f"{type(given).__name__} is no Regularizer of this program{hint}")


def _bound(cls: type, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the constructor by name; none where they do not fit, as while an object is copied."""
    try:
        bound = signature(cls.__init__).bind(None, *args, **kwargs)
    except (TypeError, ValueError):
        return {}
    bound.apply_defaults()
    _, *named = bound.arguments.items()
    found: dict[str, Any] = {}
    for name, argument in named:
        more = bound.signature.parameters[name].kind is Parameter.VAR_KEYWORD
        found |= argument if more else {name: argument}
    return found
