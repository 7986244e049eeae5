"""Learned regularizers with closed-form derivatives and proven curvature bounds."""

from regularizers.adaptive import Adaptive
from regularizers.filter_bank import BOUNDARIES, ImageTooSmallError
from regularizers.foe import FieldOfExperts
from regularizers.icnn import InputConvexNetwork
from regularizers.noise_levels import NoiseLevelError
from regularizers.potential import Potential
from regularizers.potentials import CHARBONNIER, HUBER, LOG, MCP, POTENTIALS, SPLINE, WEAK_SPLINE
from regularizers.regularizer import Functional, Regularizer
from regularizers.rescaled import Rescaled
from regularizers.tv import TotalVariation

__all__ = [
    "BOUNDARIES",
    "CHARBONNIER",
    "HUBER",
    "LOG",
    "MCP",
    "POTENTIALS",
    "SPLINE",
    "WEAK_SPLINE",
    "Adaptive",
    "FieldOfExperts",
    "Functional",
    "ImageTooSmallError",
    "InputConvexNetwork",
    "NoiseLevelError",
    "Potential",
    "Regularizer",
    "Rescaled",
    "TotalVariation",
]
