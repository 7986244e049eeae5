"""Learned regularizers with closed-form derivatives and proven curvature bounds."""

from regularizers.autograd import AutogradFunctional
from regularizers.channelwise import Channelwise, for_channels
from regularizers.foe.adaptive import Adaptive
from regularizers.foe.filter_bank import BOUNDARIES, ImageTooSmallError
from regularizers.foe.module import FieldOfExperts
from regularizers.foe.potential import Potential
from regularizers.foe.potentials import CHARBONNIER, HUBER, LOG, MCP, POTENTIALS, SPLINE, WEAK_SPLINE
from regularizers.functional import Functional, RegularizerError
from regularizers.icnn import InputConvexNetwork
from regularizers.noise_levels import NoiseLevelError
from regularizers.regularizer import Regularizer, require_regularizer
from regularizers.rescaled import Rescaled
from regularizers.tv import TotalVariation

__all__ = [
    "BOUNDARIES", "CHARBONNIER", "HUBER", "LOG", "MCP", "POTENTIALS", "SPLINE", "WEAK_SPLINE", "Adaptive",
    "AutogradFunctional", "Channelwise", "FieldOfExperts", "Functional", "ImageTooSmallError", "InputConvexNetwork",
    "NoiseLevelError", "Potential", "Regularizer", "RegularizerError", "Rescaled", "TotalVariation", "for_channels",
    "require_regularizer",
]  # fmt: skip
