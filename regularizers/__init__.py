"""Learned regularizers with closed-form derivatives and proven curvature bounds."""

from regularizers.foe import FieldOfExperts
from regularizers.potentials import CHARBONNIER, HUBER, MCP, POTENTIALS, Potential
from regularizers.regularizer import Functional, Regularizer
from regularizers.tv import TotalVariation

__all__ = [
    "CHARBONNIER",
    "HUBER",
    "MCP",
    "POTENTIALS",
    "FieldOfExperts",
    "Functional",
    "Potential",
    "Regularizer",
    "TotalVariation",
]
