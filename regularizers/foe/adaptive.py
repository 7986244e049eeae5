"""An adaptive field of experts: what counts as an edge differs from pixel to pixel.

    R(x; z) = scale sum_k sum_i m_ki(z) phi(g_ki(z) (c_k * x)_i; w_k, s_k) / g_ki(z)^2,

with z the reconstruction by a guide, a field of experts that was trained before, or that of the last update, and g > 0
and 0 < m <= 1 the output of a convolutional network; groups of responses have a g and an m each. With t = g u the
derivatives by a response u are m phi'(t) / g and m phi''(t): the contrast g stretches the potential (thresholds are
divided by g) and leaves the range of its curvature as it is, and the mask m (Neumayer and Altekrueger, arXiv
2406.12289) brings it nearer to zero. So -rho <= d2R/dx2 <= L with the bounds for g = m = 1, whatever the network says;
where phi is convex, weights have no bound, and m <= 1 is no loss. z is found first and does not change while x is
sought: a certificate bounds the distance to argmin_x 1/2 ||A x - y||^2 + R(x; z) for this z.
"""

from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from regularizers.foe.contrast_networks import ContrastNetwork, Dilated, Rows, Unet, strips
from regularizers.foe.filter_bank import pad, pad_adjoint
from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.foe.module import FieldOfExperts
from regularizers.functional import RegularizerError
from regularizers.noise_levels import REFERENCE
from regularizers.regularizer import Regularizer


@dataclass(frozen=True)
class InStrips:
    """R(.; z) for a single gradient: the planes of few rows are held at a time. All else asks for the whole."""

    base: FieldOfExpertsFunctional  # R for g = m = 1
    network: ContrastNetwork
    z: Tensor  # (B, C, H, W)
    unit: float

    @cached_property
    def whole(self) -> FieldOfExpertsFunctional:
        planes, r = self.network(self.z, self.unit), self._outside
        return self._modulated(planes[:, :, r : planes.shape[2] - r])

    @cached_property
    def rows(self) -> Rows:
        return self.network.rows(self.z, self.unit)

    @torch.no_grad()
    def gradient(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        filters, r = self.base.filters, self._outside
        padded = pad(x, filters.shape[-1], self.base.boundary)
        g, reach = torch.zeros_like(padded), filters.shape[-1] - 1
        for first, last in strips(padded.shape[2] - reach, len(filters), padded):
            part = replace(self._modulated(self.rows(first + r, last + r)), boundary="valid")
            g[:, :, first : last + reach] += part.gradient(padded[:, :, first : last + reach])
        return pad_adjoint(g, filters.shape[-1], self.base.boundary)

    def curvature(self) -> tuple[float, float]:
        return self.base.curvature()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def _modulated(self, planes: Tensor) -> FieldOfExpertsFunctional:  # (B, P, rows, W)
        """Return R with contrasts and masks, of rows where there are responses."""
        r, count = self._outside, len(self.base.weights)
        g, m = planes[..., r : planes.shape[3] - r].tensor_split((count,), 1)
        return replace(self.base, contrasts=g.contiguous(), masks=m.contiguous() if m.numel() else None)

    @property
    def _outside(self) -> int:
        """How far pixels without a response reach into the image."""
        return self.base.filters.shape[-1] // 2 if self.base.boundary == "valid" else 0


class Adaptive(Regularizer):
    """A base, which is a field of experts, and a network that are learned. The guide is a copy of the base as it comes.

    in_strips: whether R that is not differentiated in theta computes planes anew for every gradient, to save memory.
    base: trained already, or to be loaded.  width: channels of the network at full resolution.
    network: one of `contrast_networks`.  masks: whether it finds masks, too; else m = 1.
    updates: T of z_0, the guide's, and z_t = argmin h(.; z_{t-1}), t = 1 ... T.
    learn_guide: whether the guide is learned, too; else its tensors stay as they are.
    """

    in_strips = False

    def __init__(
        self, base: FieldOfExperts, width: int, network: Literal["dilated", "unet"] = "dilated", masks: bool = False,
        updates: int = 1, learn_guide: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(base.noise_nodes)
        self.base, self.guide, self.updates, self.learn_guide = base, deepcopy(base), updates, learn_guide
        functional = base.functional()
        channels, groups = functional.filters.shape[1], len(functional.weights)
        self.network = (
            Unet(channels, width, groups, masks, levels=base.noise_nodes > 0)
            if network == "unet"
            else Dilated(channels, width, groups, masks)
        )
        self.condition: Tensor | None = None  # z

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield those of the base and the network, and those of the guide where it learns, too."""
        guide = f"{prefix}{'.' if prefix else ''}guide."
        for name, p in super().named_parameters(prefix, recurse, remove_duplicate):
            if self.learn_guide or not name.startswith(guide):
                yield name, p

    def guide_at_level(self) -> Regularizer:
        return self.guide.at(self.noise_level)

    def conditioned_on(self, z: Tensor) -> Self:  # (B, C, H, W)
        """Return R(.; z): a view with the same parameters, where derivatives by them arrive."""
        view = copy(self)
        view.condition = z
        return view

    def require_condition(self) -> None:
        if self.condition is None:
            raise RegularizerError(
                "an adaptive regularizer is R(.; z), and has no z here: ask conditioned_on(z), with z a reconstruction "
                "by its guide; `reconstruct` finds z by itself"
            )

    def mixed_with_condition(self, x: Tensor, q: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # 2 x (B, C, H, W)
        self.require_condition()
        assert self.condition is not None
        z = self.condition.detach().requires_grad_()
        *by_theta, by_z = self.conditioned_on(z)._derivative(lambda functional: functional.mixed(x, q), z)
        return tuple(by_theta), by_z

    def promoted(self) -> Self:
        """Return a copy in float64, of which a single gradient takes no more memory than R in float32."""
        view = super().promoted()
        view.in_strips = True
        return view

    def functional(self) -> FieldOfExpertsFunctional | InStrips:
        """Return R(.; z), or R for g = m = 1 where there is no z yet."""
        functional = self.base.at(self.noise_level).functional()
        if self.condition is None:
            return functional
        # In units of the noise: one network for all levels then sees much the same at all of them.
        found = InStrips(functional, self.network, self.condition, self.noise_level if self.noise_nodes else REFERENCE)
        return found if self.in_strips and not torch.is_grad_enabled() else found.whole
