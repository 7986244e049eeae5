"""A regularizer of grey images on images of more channels, such as the real and imaginary part of complex ones:

    R(x) = sum_c R1(x_c),    d2R/dx2 = diag(d2R1/dx2(x_1), d2R1/dx2(x_2), ...),

so that -rho <= d2R/dx2 <= L with the numbers of R1. The channels are images of their own to R1, (B, C, H, W) is
(B C, 1, H, W), so that its closed forms and compiled kernels are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from regularizers.functional import Functional, Sensitivity
from regularizers.regularizer import Regularizer


@dataclass(frozen=True)
class ChannelwiseFunctional:
    """R for a fixed R1."""

    base: Functional  # R1
    channels: int

    @property
    def natural(self) -> tuple[Tensor, ...]:
        return self.base.natural

    @property
    def operations(self) -> float:
        return getattr(self.base, "operations", 0.0)

    def value(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B,)
        return self.base.value(_apart(x)).view(len(x), -1).sum(1)

    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return self.base.gradient(_apart(x)).view_as(x)

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        product = self.base.hessian(_apart(x))
        return lambda v: product(_apart(v)).view_as(v)

    def mixed(self, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        return self.base.mixed(_apart(x), _apart(q))

    def slopes(self, x: Tensor) -> tuple[Tensor, ...]:  # (B, C, H, W)
        return self.base.slopes(_apart(x))

    def curvature_model(self, x: Tensor) -> tuple[Tensor, Tensor] | None:  # (B, C, H, W)
        model = self.base.curvature_model(_apart(x))
        if model is None:
            return None
        stencil, diagonal = model
        own = stencil.expand(x.shape[0] * x.shape[1], *stencil.shape[1:]).view(*x.shape[:2], *stencil.shape[3:])
        return torch.diag_embed(own.movedim(1, -1)).movedim((-2, -1), (1, 2)), diagonal.expand_as(_apart(x)).view_as(x)

    def curvature(self) -> tuple[float, float]:
        return self.base.curvature()

    def take(self, images: Tensor) -> ChannelwiseFunctional:
        places = images[:, None] * self.channels + torch.arange(self.channels, device=images.device)
        return ChannelwiseFunctional(self.base.take(places.flatten()), self.channels)


class Channelwise(Regularizer):
    """R with the parameters of R1, which are what is learned; a view, which holds no tensors of its own."""

    def __init__(self, base: Regularizer, channels: int) -> None:
        super().__init__(base.noise_nodes)
        self.base, self.channels = base, channels
        if base.noise_nodes:
            self.noise_level = base.noise_level

    @property
    def has_sensitivity(self) -> bool:  # type: ignore[override]
        return self.base.has_sensitivity

    @property
    def updates(self) -> int:  # type: ignore[override]
        return self.base.updates

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield those of R1 that are learned, in its order."""
        return self.base.parameters(recurse)

    def functional(self) -> ChannelwiseFunctional:
        return ChannelwiseFunctional(self.base.at(self.noise_level).functional(), self.channels)

    def promoted(self) -> Self:
        return type(self)(self.base.at(self.noise_level).promoted(), self.channels)

    def guide_at_level(self) -> Regularizer | None:
        guide = self.base.at(self.noise_level).guide_at_level()
        return guide and Channelwise(guide, self.channels)

    def require_condition(self) -> None:
        self.base.require_condition()

    def conditioned_on(self, z: Tensor) -> Self:  # (B, C, H, W)
        return type(self)(self.base.at(self.noise_level).conditioned_on(_apart(z)), self.channels)

    def mixed_with_condition(self, x: Tensor, q: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # 2 x (B, C, H, W)
        by_theta, by_z = self.base.at(self.noise_level).mixed_with_condition(_apart(x), _apart(q))
        return by_theta, by_z.view_as(x)

    @torch.no_grad()
    def sensitivity(self, x: Tensor, q: Tensor, radius: Tensor) -> Sensitivity:  # 2 x (B, C, H, W), (B,)
        """Bound the changes by those of the channels, none of which moves further than x.

        J^T q = sum_c J1(x_c)^T q_c, so ||J||^2 <= sum_c ||J1(x_c)||^2 and changes of J^T q add up; those of d2R/dx2 q
        are orthogonal. Raises RegularizerError where that of R1 is not known.
        """
        each = self.base.at(self.noise_level).sensitivity(_apart(x), _apart(q), radius.repeat_interleave(self.channels))
        jacobian, product, change = (t.view(len(x), -1) for t in (each.jacobian, each.product, each.jacobian_product))
        return Sensitivity(jacobian.norm(dim=1), product.norm(dim=1), change.sum(1))


def for_channels(regularizer: Regularizer, channels: int) -> Regularizer:
    """Return R for images of so many channels: a regularizer of grey images takes those of others apart, any other is
    what it is."""
    return Channelwise(regularizer, channels) if channels > 1 and _known_channels(regularizer) == 1 else regularizer


def _known_channels(regularizer: Regularizer) -> int | None:
    """Return the channels that R was made for; None where it does not say."""
    base = regularizer.arguments.get("base")
    own = _known_channels(base) if isinstance(base, Regularizer) else None
    return regularizer.arguments.get("channels", own)


def _apart(x: Tensor) -> Tensor:  # (B, C, H, W) -> (B C, 1, H, W)
    return x.reshape(-1, 1, *x.shape[2:])
