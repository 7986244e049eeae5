"""What a regularizer is to the rest of the program.

A `Functional` is R_theta for one fixed theta: a pure function of the image with its derivatives. A `Regularizer` owns
the parameters: it maps them, unconstrained, to a functional whose natural parameters (filters, weights, smoothings)
satisfy their constraints, and pulls gradients back through that map.

A regularizer of one's own overrides `value` and `curvature`, and autograd finds the derivatives. One with closed forms
overrides `functional`.
"""

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


class Regularizer(Prior):
    """A learned functional as an `nn.Module` and a `deepinv.optim.Prior`, whose names `fn` and `grad` it keeps.

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

        Raises NoiseLevelError where nothing was learned.
        """
        if self.noise_nodes:
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

    def fn(self, x: Tensor, *args, **kwargs) -> Tensor:  # (B, C, H, W) -> (B,)
        """Return R(x_b): the name of `value` in deepinv, which may pass further arguments."""
        return self.value(x)

    def grad(self, x: Tensor, *args, **kwargs) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Return dR/dx, under deepinv's name."""
        return self.functional().gradient(x)

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

    def _present(self, parameter: Tensor) -> Tensor:  # (N, ...) -> (...)
        """Return what a parameter that may depend on the noise level is at this one."""
        return interpolate(parameter, self.noise_level) if self.noise_nodes else parameter

    def _derivative(self, by_natural: Callable[[Functional], tuple[Tensor, ...]], *more: Tensor) -> tuple[Tensor, ...]:
        """Return derivatives by theta, and by more tensors, from those by the natural parameters."""
        with torch.enable_grad():
            functional = self.functional()
        with torch.no_grad():
            cotangents = by_natural(functional)
        by = (*self.parameters(), *more)
        return torch.autograd.grad(functional.natural, by, cotangents, materialize_grads=True)


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
