"""What a regularizer is to the rest of the program.

A `Functional` is R_theta for one fixed theta: a pure function of the image with closed-form derivatives. A
`Regularizer` owns the parameters: it maps them, unconstrained, to a functional whose natural parameters (filters,
weights, smoothings) satisfy their constraints, and pulls gradients back through that map.
"""

from collections.abc import Callable
from copy import copy
from typing import Self

import torch
from deepinv.optim import Prior
from torch import Tensor

from regularizers.functional import Functional, Sensitivity
from regularizers.noise_levels import REFERENCE, interpolate, require_known


class Regularizer(Prior):
    """A learned functional as an `nn.Module` and a `deepinv.optim.Prior`, whose names `fn` and `grad` it keeps.

    noise_nodes: at how many noise levels what depends on them is learned (`regularizers.noise_levels`); 0 for a
    regularizer that is the same at all levels.
    """

    def __init__(self, noise_nodes: int = 0) -> None:
        super().__init__()
        self.explicit_prior = True
        self.noise_nodes, self.noise_level = noise_nodes, REFERENCE

    def at(self, noise_level: float) -> Self:
        """R at this noise level: a view with the same parameters, where derivatives by them arrive. Raises
        NoiseLevelError where nothing was learned."""
        if self.noise_nodes:
            require_known(noise_level)
        view = copy(self)
        view.noise_level = noise_level
        return view

    def _present(self, parameter: Tensor) -> Tensor:  # (N, ...) -> (...)
        """What a parameter that may depend on the noise level is at this one."""
        return interpolate(parameter, self.noise_level) if self.noise_nodes else parameter

    def guiding(self) -> "Regularizer | None":
        """With whose reconstruction z this one becomes `given(z)`, and only then complete; None for most."""
        return None

    def given(self, z: Tensor) -> Self:  # (B, C, H, W)
        """R for the images whose reconstructions by the guide are z; of a regularizer that has one."""
        raise NotImplementedError

    def functional(self) -> Functional:
        """R_theta at the present parameters, differentiable in them."""
        raise NotImplementedError

    def frozen(self) -> Functional:
        """R_theta at the present parameters, cut from the graph: what a solver iterates on."""
        with torch.no_grad():
            return self.functional()

    def fn(self, x: Tensor, *args, **kwargs) -> Tensor:  # (B, C, H, W) -> (B,)
        return self.functional().value(x)

    def grad(self, x: Tensor, *args, **kwargs) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self.functional().gradient(x)

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        """J^T q = d/dtheta sum_b <dR/dx(x_b), q_b>, one tensor per parameter, in their order."""
        return self._derivative(lambda functional: functional.mixed(x, q))

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:
        """d/dtheta sum_b R(x_b), one tensor per parameter, in their order."""
        return self._derivative(lambda functional: functional.slopes(x))

    def _derivative(self, by_natural: Callable[[Functional], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """From derivatives by natural parameters to derivatives by theta."""
        with torch.enable_grad():
            functional = self.functional()
        with torch.no_grad():
            cotangents = by_natural(functional)
        return torch.autograd.grad(functional.natural, tuple(self.parameters()), cotangents)

    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:
        """How far J and the Hessian can be from those at x: (B, C, H, W), (B, C, H, W), (B,). Proven, not estimated."""
        raise NotImplementedError
