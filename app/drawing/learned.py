"""What a model has learned."""

import torch
from matplotlib.figure import Figure

from app.settings.options import ConfigError
from figures import filters, potentials
from figures.style import PAPER, Look
from regularizers import CHARBONNIER, MCP, Adaptive, FieldOfExperts, Regularizer, Rescaled, TotalVariation


def draw_filters(
    regularizer: Regularizer, name: str, look: Look = PAPER, frequency: bool = False, common_range: bool = False
) -> Figure:
    if isinstance(regularizer, Rescaled | Adaptive):
        regularizer = regularizer.base.at(regularizer.noise_level)
    if not isinstance(regularizer, FieldOfExperts):
        raise ConfigError(f"{name} has no filters to draw (this figure is for foe, crr and wcrr)")
    with torch.no_grad():
        functional = regularizer.functional()
    return filters.draw(functional.filters, functional.weights, functional.smoothings, look, frequency, common_range)


def draw_potentials(regularizer: Regularizer, name: str, look: Look = PAPER) -> Figure:
    """phi_k(t; w_k, s_k) times the scale of the bank, up to where it has become straight. The potential of total
    variation is that of `charbonnier`, of the length of the gradient. Where there are contrasts, phi for contrast 1."""
    if isinstance(regularizer, Adaptive):
        regularizer = regularizer.base.at(regularizer.noise_level)
    if isinstance(regularizer, FieldOfExperts):
        functional = regularizer.functional()
        potential, scale = functional.potential, functional.scale
    elif isinstance(regularizer, TotalVariation):
        functional, potential, scale = regularizer.functional(), CHARBONNIER, 1.0
    else:
        raise ConfigError(f"{name} has no potentials to draw (this figure is for tv, foe, crr and wcrr)")
    w, s = (p.detach().double().view(-1, 1, 1) for p in (functional.weights, functional.smoothings))
    end = 1.2 * float(w.max()) if potential is MCP else 4 * float(s.max())
    t = torch.linspace(-end, end, 801, dtype=torch.float64, device=w.device)
    every = t.repeat(len(w), 1, 1)
    values, slopes = potential.value(every, w, s), w * potential.influence(every, w, s)
    values, slopes = ((scale * v[:, 0]).detach().cpu() for v in (values, slopes))
    return potentials.draw(t.cpu(), values, slopes, w.flatten().cpu(), look)
