"""What a model has learned: its filters and its potentials, where it has any.

What can be drawn is asked of the functional R_theta. A field of experts has `filters` and a `potential`, and so has a
regularizer of the user that names its parameters alike. A rescaled one has the filters of its base.
"""

from typing import Any

import torch
from matplotlib.figure import Figure

from app.assemble import load
from app.settings.options import ConfigError
from figures import filters, potentials
from figures.style import PAPER, Look
from regularizers import CHARBONNIER, MCP, Regularizer
from regularizers.tv import TotalVariationFunctional


def draw_filters(
    model: str, noise_level: str | None = None, frequency: bool = False, common_range: bool = False, look: Look = PAPER
) -> Figure:
    """Draw the filters of a model, at a noise level where it has many. Raises ConfigError where it has none."""
    drawn = filters_of(_regularizer(model, noise_level), look, frequency, common_range)
    if drawn is None:
        raise ConfigError(f"{model} has no filters to draw (this figure is for foe, crr and wcrr)")
    return drawn


def draw_potentials(model: str, noise_level: str | None = None, look: Look = PAPER) -> Figure:
    """Draw the potentials of a model, at a noise level where it has many. Raises ConfigError where it has none."""
    drawn = potentials_of(_regularizer(model, noise_level), look)
    if drawn is None:
        raise ConfigError(f"{model} has no potentials to draw (this figure is for tv, foe, crr and wcrr)")
    return drawn


def filters_of(
    regularizer: Regularizer, look: Look = PAPER, frequency: bool = False, common_range: bool = False
) -> Figure | None:
    """Draw filters, weights and smoothings, or return None where the regularizer has no filters."""
    functional: Any = regularizer.frozen()
    functional = getattr(functional, "base", functional)
    if not all(hasattr(functional, name) for name in ("filters", "weights", "smoothings")):
        return None
    return filters.draw(functional.filters, functional.weights, functional.smoothings, look, frequency, common_range)


def potentials_of(regularizer: Regularizer, look: Look = PAPER) -> Figure | None:
    """Draw phi_k(t; w_k, s_k) times the scale of the bank, or return None where the regularizer has no potential. t
    goes up to where phi has become straight. Where there are contrasts, phi is drawn for contrast 1. Of a potential of
    groups, it is a function of the first response, where the others are 0."""
    functional: Any = regularizer.promoted().frozen()
    # That of total variation is `charbonnier` of the length of the gradient.
    own = CHARBONNIER if isinstance(functional, TotalVariationFunctional) else None
    potential, scale = getattr(functional, "potential", own), getattr(functional, "scale", 1.0)
    if potential is None:
        return None
    w, s = (p.double().view(-1, 1, 1) for p in (functional.weights, functional.smoothings))
    end = 1.2 * float(w.max()) if potential.name.startswith(MCP.name) else 4 * float(s.max())
    t = torch.linspace(-end, end, 801, dtype=torch.float64, device=w.device)
    every = t.new_zeros(potential.size * len(w), 1, len(t))
    every[:: potential.size] = t
    values, slopes = potential.value(every, w, s), w * potential.influence(every, w, s)[:: potential.size]
    values, slopes = ((scale * v[:, 0]).cpu() for v in (values, slopes))
    return potentials.draw(t.cpu(), values, slopes, w.flatten().cpu(), look)


def _regularizer(model: str, noise_level: str | None) -> Regularizer:
    return load(model, [f"problem.noise_level={noise_level}"] if noise_level else [])[0].regularizer
