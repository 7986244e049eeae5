"""A functional from the value of R alone; torch.autograd finds every derivative.

    dR/dx,    v -> d2R/dx2 v,    d/dtheta sum_b <dR/dx(x_b), q_b>,    d/dtheta sum_b R(x_b)

R must be twice differentiable in torch, with finite derivatives: those of (x^2)^(1/2) at x = 0 are NaN. Closed forms
cost less time and memory, and this is the slow, obvious reference that they are tested and timed against.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from regularizers.functional import RegularizerError


def derivatives(y: Tensor, by: tuple[Tensor, ...], along: Tensor | None = None, **options: bool) -> tuple[Tensor, ...]:
    """Return d<y, along> / d by, one tensor of its shape for each of `by` (...), and 0 where y does not depend on it.

    along: of the shape of y, or None for a scalar y.  options: those of `torch.autograd.grad`.  Raises RegularizerError
    under `torch.inference_mode`, where nothing has a derivative.
    """
    if torch.is_inference_mode_enabled():
        raise RegularizerError("torch.inference_mode turns autograd off, which finds derivatives: use torch.no_grad")
    if not y.requires_grad:
        return tuple(map(torch.zeros_like, by))
    return torch.autograd.grad(y, by, along, materialize_grads=True, **options)


def derivatives_at(
    tensors: tuple[Tensor, ...], function: Callable[[tuple[Tensor, ...]], Tensor]
) -> tuple[Tensor, ...]:  # (...)
    """Return the derivatives of a scalar function of these tensors, without a graph, also under `torch.no_grad`."""
    with torch.enable_grad():
        leaves = tuple(t.detach().requires_grad_() for t in tensors)
        return derivatives(function(leaves), leaves)


class _Method(nn.Module):
    """Lets `torch.func.functional_call` run any method of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, name: str, *arguments):
        return getattr(self.module, name)(*arguments)


@dataclass(frozen=True)
class AutogradFunctional:
    """R given by `module.value(x)` (B, C, H, W) -> (B,) and `module.curvature()`, a pair of bounds (rho, L).

    parameters: by name, what stands for the parameters of the module while it computes; derivatives are by them.
    constants: its other tensors, by name. R is the same for all images of a batch.
    """

    module: nn.Module
    parameters: dict[str, Tensor]
    constants: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module) -> "AutogradFunctional":
        """Return R at the present parameters: at the parameters themselves, or, under `torch.no_grad`, at copies, so
        that R stays what it is when they move."""
        live = torch.is_grad_enabled()
        parameters = {name: p if live else p.detach().clone() for name, p in module.named_parameters()}
        every = {**dict(nn.Module.named_parameters(module)), **dict(module.named_buffers())}
        return cls(
            module, parameters, {name: t.detach().clone() for name, t in every.items() if name not in parameters}
        )

    @property
    def natural(self) -> tuple[Tensor, ...]:
        return tuple(self.parameters.values())

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        """Return R(x_b). Raises RegularizerError where that is not one number per image."""
        value = self._run("value", x)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"
            raise RegularizerError(
                f"{type(self.module).__name__}.value must return one number per image, a tensor of shape "
                f"{tuple(x.shape[:1])} for images {tuple(x.shape)}, not {came}"
            )
        return value

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Return dR/dx; it can itself be differentiated where gradients are recorded and x or a parameter needs one.

        Raises RegularizerError of a value that depends on x, but not by autograd.
        """
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.natural))
        with torch.enable_grad():
            at = x if recorded and x.requires_grad else x.detach().requires_grad_()
            value = self.value(at)
            detached = not (value.requires_grad or torch.is_inference_mode_enabled())
            if detached and not torch.equal(self.value(at / 2), value):
                name = type(self.module).__name__
                raise RegularizerError(f"{name}.value depends on x, but autograd does not know how")
            (g,) = derivatives(value.sum(), (at,), create_graph=recorded)
        return g.clone()  # autograd may return a view of a constant

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        """Return v -> d2R/dx2(x) v, from one graph at x; products carry no graph themselves."""
        fixed = self._at(tuple(t.detach() for t in self.natural))
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            g = fixed.gradient(x)
        return lambda v: derivatives(g, (x,), v.detach(), retain_graph=True)[0].clone()

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        return derivatives_at(self.natural, lambda leaves: (self._at(leaves).gradient(x) * q).sum())

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W)
        return derivatives_at(self.natural, lambda leaves: self._at(leaves).value(x).sum())

    def curvature_model(self, x: Tensor) -> None:
        return None

    @torch.no_grad()
    def curvature(self) -> tuple[float, float]:
        """Return (rho, L) as numbers. Raises RegularizerError where they are none."""
        found = self._run("curvature")
        try:
            rho, largest = map(float, found)
        except (TypeError, ValueError):
            name = type(self.module).__name__
            raise RegularizerError(f"{name}.curvature must return two numbers (rho, L), not {found!r}") from None
        return rho, largest

    def take(self, images: Tensor) -> "AutogradFunctional":
        return self

    def _at(self, parameters: tuple[Tensor, ...]) -> "AutogradFunctional":
        return replace(self, parameters=dict(zip(self.parameters, parameters, strict=True)))

    def _run(self, method: str, *arguments):
        tensors = {f"module.{name}": t for name, t in {**self.constants, **self.parameters}.items()}
        return torch.func.functional_call(_Method(self.module), tensors, (method, *arguments))
