"""A trained regularizer on another problem: amplitude and contrast are learned, R itself stays as it is.

    F(x) = (a / c^2) R(c x),    a, c > 0
    F(x) = (a / c^2) R_sigma(c x)    of a regularizer for many noise levels: sigma in [LOWEST, HIGHEST] is learned, too

    dF/dx = (a / c) R'(c x),    d2F/dx2 = a R''(c x),

so -a rho <= d2F/dx2 <= a L: the amplitude scales how much R curves, the contrast where. For a field of experts this is
w -> a w / c, s -> s / c, and for its budgeted potentials scale -> a scale, w -> w / c, s -> s / c; total variation is
like the former. (Two numbers tuned for every inverse problem: Goujon, Neumayer and Unser, arXiv 2308.10542, there of
(lambda / mu) R(mu x).)
"""

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regularizers.functional import Functional, RegularizerError, Sensitivity
from regularizers.noise_levels import HIGHEST, LOWEST
from regularizers.regularizer import Regularizer

END = 0.02  # nearest t to 0 and 1 where a learned level begins: at the ends the sigmoid has no slope


@dataclass(frozen=True)
class RescaledFunctional:
    """F, differentiable in a and c, and where the level is learned in the natural parameters of R."""

    base: Functional  # R
    amplitude: Tensor  # a, a scalar
    contrast: Tensor  # c, a scalar
    learns_level: bool = False

    @property
    def natural(self) -> tuple[Tensor, ...]:
        return self.amplitude, self.contrast, *(self.base.natural if self.learns_level else ())

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        return self.amplitude / self.contrast.square() * self.base.value(self.contrast * x)

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self.amplitude / self.contrast * self.base.gradient(self.contrast * x)

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        product = self.base.hessian(self.contrast * x)
        return lambda v: self.amplitude * product(v)

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor] | None:  # (B, C, H, W)
        model = self.base.curvature_model(self.contrast * x)
        return None if model is None else (self.amplitude * model[0], self.amplitude * model[1])

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        """Return <R'(c x), q> / c, (a / c) <R''(c x) x, q> - (a / c^2) <R'(c x), q> and a / c times that of R."""
        a, c = self.amplitude, self.contrast
        slope, bend = (self.base.gradient(c * x) * q).sum(), (self.base.hessian(c * x)(x) * q).sum()
        by_base = (a / c * d for d in self.base.mixed(c * x, q)) if self.learns_level else ()
        return slope / c, a / c * (bend - slope / c), *by_base

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W)
        """Return R(c x) / c^2, (a / c^2) <R'(c x), x> - 2 (a / c^3) R(c x) and a / c^2 times that of R."""
        a, c = self.amplitude, self.contrast
        value, slope = self.base.value(c * x).sum(), (self.base.gradient(c * x) * x).sum()
        by_base = (a / c.square() * d for d in self.base.slopes(c * x)) if self.learns_level else ()
        return value / c.square(), a / c.square() * (slope - 2 * value / c), *by_base

    @property
    def operations(self) -> float:
        return getattr(self.base, "operations", 0.0)

    def take(self, images: Tensor) -> "RescaledFunctional":
        return replace(self, base=self.base.take(images))

    def curvature(self) -> tuple[float, float]:
        rho, largest = self.base.curvature()
        return float(self.amplitude) * rho, float(self.amplitude) * largest


class Rescaled(Regularizer):
    """F with theta = (log a, log c), or (log a, log c, s) with log sigma = log LOWEST + t log(HIGHEST / LOWEST), t the
    sigmoid of s. The tensors of `base` are part of the state, but they are not learned.

    Raises RegularizerError of a base with a guide, and where the level of a base for one noise level is to be learned.
    """

    def __init__(self, base: Regularizer, learns_level: bool = False) -> None:
        if learns_level and not base.noise_nodes:
            raise RegularizerError("only a regularizer for many noise levels can have its level learned")
        if base.guide_at_level() is not None:
            raise RegularizerError("a regularizer with a guide cannot be rescaled: rescale its base, and train on")
        super().__init__(0 if learns_level else base.noise_nodes)
        self.base = base
        self.log_amplitude = nn.Parameter(torch.zeros(()))
        self.log_contrast = nn.Parameter(torch.zeros(()))
        if learns_level:
            self.raw_level = nn.Parameter(torch.zeros(()))

    @property
    def learns_level(self) -> bool:
        return hasattr(self, "raw_level")

    @property
    def level(self) -> float | Tensor:
        """The noise level of the base: a number, or differentiable where it is learned."""
        if not self.learns_level:
            return self.noise_level
        return LOWEST * (HIGHEST / LOWEST) ** self.raw_level.double().sigmoid()

    @torch.no_grad()
    def described(self) -> str:
        """Return what was learned as text."""
        text = f"amplitude {self.log_amplitude.exp():.4g}, contrast {self.log_contrast.exp():.4g}"
        return text + (f", noise level {255 * self.level:.3g}/255" if self.learns_level else "")

    @torch.no_grad()
    def put_level(self, noise_level: float) -> float:
        """Let the learned level begin at this one, or near an end where nothing is known of it, and return where."""
        t = math.log(noise_level / LOWEST) / math.log(HIGHEST / LOWEST)
        self.raw_level.copy_(torch.tensor(t).clamp(END, 1 - END).logit())
        return float(self.level)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield those of F alone, without those of `base`."""
        return super().named_parameters(prefix, False, remove_duplicate)

    @property
    def has_sensitivity(self) -> bool:  # type: ignore[override]
        return self.base.has_sensitivity and not self.learns_level

    @torch.no_grad()
    def amplify(self, factor: float) -> None:
        """Multiply F by a factor: a <- factor a."""
        self.log_amplitude += math.log(factor)

    def functional(self) -> RescaledFunctional:
        base = self.base.at(self.noise_level)
        if self.learns_level:
            base = copy(base)
            base.noise_level = self.level  # type: ignore[assignment]
        functional = base.functional() if self.learns_level else base.frozen()
        return RescaledFunctional(functional, self.log_amplitude.exp(), self.log_contrast.exp(), self.learns_level)

    @torch.no_grad()
    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:  # 2 x (B, C, H, W), (B,)
        """Bound the changes of J and the Hessian by those of the base.

        The rows of J are F'(x) and F''(x) x - F'(x). With d = x' - x, ||d|| <= r, M >= ||F''|| everywhere, and
        D(v) >= ||(F''(x') - F''(x)) v|| from that of R'' within c r of c x,

            ||F'(x')|| <= ||F'(x)|| + M r,    ||F''(x') x'|| <= ||F''(x) x|| + D(x) + M r,
            |<F'(x') - F'(x), q>| <= r (||F''(x) q|| + D(q)),
            |<F''(x') x' - F''(x) x, q>| <= (||x|| + r) D(q) + r ||F''(x) q||.

        Raises RegularizerError where that of the base is not known.
        """
        f, base = self.functional(), self.base.at(self.noise_level)
        a, c = f.amplitude, f.contrast

        def norm(v: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
            return v.flatten(1).norm(dim=1)

        def change(v: Tensor) -> Tensor:  # D(v)
            return a * base.sensitivity(c * x, v, c * radius).product

        hessian, most, of_q = f.hessian(x), max(f.curvature()), change(q)
        first = norm(f.gradient(x)) + most * radius
        second = norm(hessian(x)) + change(x) + most * radius
        moved = radius * (norm(hessian(q)) + of_q)
        turned = moved + norm(x) * of_q
        return Sensitivity(torch.hypot(first, first + second), of_q, torch.hypot(moved, moved + turned))
