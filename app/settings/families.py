"""The section [regularizer]: one dataclass per family, whose fields are the arguments of the family's constructor, and
the keys that say how training starts."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from app.settings.fields import ConfigError, When, option

LARGEST_FILTER = 63  # pixels along a side

# Keys of several families: a field belongs to one dataclass, so each makes its own.
_noise_nodes = partial(
    option, 0, "weights and smoothings are learned at so many noise levels from 5/255 to 50/255 and interpolated "
    "between; the initial ones are those at 25/255, and proportional to the level. 0: the same at all levels",
    at_least=0, at_most=100,
)  # fmt: skip
_filters = partial(option, 32, "number of filters (icnn: of each layer)", at_least=1, at_most=1024)
_filter_size = partial(option, 7, "side of the filters in pixels", at_least=3, at_most=LARGEST_FILTER, odd=True)
_shared_potential = partial(option, True, "one learned potential for all filters")
_weak_convexity = partial(option, 0.95, "modulus rho", above=0, below=1)
_least_smoothing = partial(option, 0.0, "smoothings stay above; the larger, the faster to solve", at_least=0)

BUDGETED = ("mcp", "weak_spline")  # potentials whose weak convexity is spent from a budget
LEARNED = ("spline", "weak_spline")  # potentials that are learned
GROUP_SIZES = (1, 2, 4)
GROUPED = ("huber", "mcp")  # potentials that there are of several responses


@dataclass(frozen=True, kw_only=True)
class RegularizerOptions:
    """The keys of all families."""

    name: ClassVar[str]
    weight: float = option(0.01, "initial weight", above=0)
    smoothing: float = option(
        0.01, "initial smoothing; below the weight where potentials have a weak_convexity", above=0
    )
    start: str = option(
        "",
        "begin with the regularizer of this model, a run folder or a file: its architecture and weights. A larger "
        "filter_size (foe without hidden_channels), another weak_convexity, least_smoothing or largest_curvature and "
        "shared_potential = false refine it",
    )
    learn: Literal["all", "scale", "scale_and_level"] = option(
        "all",
        "everything; or two numbers: amplitude a and contrast c of (a / c^2) R(c x), R that of `start`; or also the "
        "noise level of an R that was learned for many",
    )

    @property
    def budgeted(self) -> bool:
        """Whether potentials have a weak convexity that no parameter can exceed."""
        return False

    @property
    def contrasts(self) -> int:
        """Channels of the network that finds thresholds for every pixel; 0 without one."""
        return 0

    @property
    def side(self) -> int:
        """Pixels along a side of the (composed) filters."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TvOptions(RegularizerOptions):
    """Total variation of the image."""

    name: ClassVar[str] = "tv"
    isotropic: bool = option(True, "both differences under one root")
    noise_nodes: int = _noise_nodes()

    @property
    def side(self) -> int:
        return 2


ADAPTIVE = When("regularizer.contrast_channels above 0", lambda c: c.regularizer.contrasts > 0)


@dataclass(frozen=True, kw_only=True)
class FieldOptions(RegularizerOptions):
    """The keys of all fields of experts."""

    filters: int = _filters()
    boundary: Literal["valid", "circular", "reflect"] = option("circular", "how filters meet the border")
    noise_nodes: int = _noise_nodes()
    contrast_channels: int = option(
        0, "thresholds follow the image: a network of so many channels finds them for every filter and pixel from what "
        "`start` reconstructs; the regularizer begins as `start`. 0: the same thresholds everywhere", at_least=0,
        at_most=1024,
    )  # fmt: skip
    contrast_network: Literal["dilated", "unet"] = option(
        "dilated", "that finds them: two dilated layers, or a U-net, which sees texture and has ten times the "
        "parameters", when=ADAPTIVE,
    )  # fmt: skip
    masks: bool = option(
        False, "the network also finds how much each filter counts at each pixel, by factors m up to 1", when=ADAPTIVE
    )
    updates: int = option(
        1, "reconstructions after that of the guide, each with the thresholds that the one before asks for",
        when=ADAPTIVE, at_least=1, at_most=100,
    )  # fmt: skip
    learn_guide: bool = option(False, "the guide is learned, too; else it stays `start`", when=ADAPTIVE)

    @property
    def contrasts(self) -> int:
        return self.contrast_channels


def _group_size(size: int) -> int:
    if size not in GROUP_SIZES:
        raise ConfigError(f"{size}; allowed are {', '.join(map(str, GROUP_SIZES))}")
    return size


def _potential(names: tuple[str, ...], but: bool = False) -> When:
    """The condition that the potential of foe is one of these, or, with `but`, none of them."""
    text = f"any regularizer.potential but {' and '.join(names)}"
    text = text if but else f"regularizer.potential = {' or '.join(names)}"
    return When(text, lambda c: (c.regularizer.potential in names) != but)


@dataclass(frozen=True, kw_only=True)
class FoeOptions(FieldOptions):
    """A field of experts."""

    name: ClassVar[str] = "foe"
    filter_size: int = _filter_size()
    potential: Literal["charbonnier", "huber", "mcp", "log", "spline", "weak_spline"] = option(
        "charbonnier", "of the responses; spline is learned and convex, weak_spline weakly convex"
    )
    shared_potential: bool = _shared_potential(when=_potential(LEARNED))
    weak_convexity: float = _weak_convexity(when=_potential(BUDGETED))
    least_smoothing: float = _least_smoothing(when=_potential(BUDGETED, but=True))
    largest_curvature: float = option(
        0.0, "of the potential: smoothings stay above this share of their weights, 1 / largest_curvature; the smaller, "
        "the faster to solve. 0: no bound", when=_potential(("mcp",)), at_least=0,
    )  # fmt: skip
    hidden_channels: tuple[int, ...] = option(
        (), "filters are composed of layers of filter_size, with so many channels between them; []: they are not",
        at_least=1, at_most=256,
    )  # fmt: skip
    group_size: int = option(
        1, "the potential is one of so many responses together, with one weight and smoothing: 1, 2 or 4",
        when=_potential(GROUPED), form=_group_size,
    )  # fmt: skip
    group_norm: Literal["l2", "linf"] = option(
        "l2", "of a group of responses: its length, or the largest of them",
        when=When("regularizer.group_size above 1", lambda c: c.regularizer.group_size > 1),
    )  # fmt: skip

    @property
    def budgeted(self) -> bool:
        return self.potential in BUDGETED

    @property
    def side(self) -> int:
        return 1 + (len(self.hidden_channels) + 1) * (self.filter_size - 1)


@dataclass(frozen=True, kw_only=True)
class RidgeOptions(FieldOptions):
    """The keys of both ridge regularizers: fields of experts with composed filters and learned potentials."""

    hidden_channels: tuple[int, ...] = option(
        (4, 8), "filters are composed of layers, with so many channels between them", at_least=1, at_most=256
    )
    layer_size: int = option(5, "side of the filters of each layer", at_least=3, at_most=15, odd=True)
    shared_potential: bool = _shared_potential()

    @property
    def side(self) -> int:
        return 1 + (len(self.hidden_channels) + 1) * (self.layer_size - 1)


@dataclass(frozen=True, kw_only=True)
class CrrOptions(RidgeOptions):
    """A convex ridge regularizer."""

    name: ClassVar[str] = "crr"
    least_smoothing: float = _least_smoothing()


@dataclass(frozen=True, kw_only=True)
class WcrrOptions(RidgeOptions):
    """A weakly convex ridge regularizer."""

    name: ClassVar[str] = "wcrr"
    weak_convexity: float = _weak_convexity()

    @property
    def budgeted(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class IcnnOptions(RegularizerOptions):
    """An input-convex network of two layers."""

    name: ClassVar[str] = "icnn"
    filters: int = _filters()
    filter_size: int = _filter_size()

    @property
    def side(self) -> int:
        return self.filter_size


FAMILIES: tuple[type[RegularizerOptions], ...] = (TvOptions, FoeOptions, CrrOptions, WcrrOptions, IcnnOptions)
