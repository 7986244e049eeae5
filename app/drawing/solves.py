"""The lower level at work on one image."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from app import assemble
from app.drawing.sources import Measured, one_image
from app.lower import agd, lbfgs
from app.lower.energy import Energy, Solver
from app.lower.solution import norm
from app.problem.losses import psnr
from app.settings.options import ConfigError
from figures import animation, contrasts, convergence
from figures.animation import Animation, Iterate
from figures.convergence import Descent
from figures.style import PAPER, FigureError, Look

SOLVERS: dict[str, Solver] = {"L-BFGS": lbfgs.solve, "accelerated gradient": agd.solve}
TIGHTER = 1e-2  # accuracy of the reference in units of the solvers'


@dataclass(frozen=True)
class ObservedEnergy(Energy):
    """h of one image that keeps every point at which its gradient was asked for."""

    path: list[tuple[Tensor, float]] = field(kw_only=True)  # x (1, C, H, W) and ||grad h(x)||

    def gradient(self, x: Tensor) -> Tensor:
        g = super().gradient(x)
        self.path.append((x.clone(), float(norm(g))))
        return g


def observe(energy: Energy, solve: Solver, accuracy: float) -> list[tuple[Tensor, float]]:
    """Points and certified bounds ||grad h|| / mu, gradient by gradient."""
    observed = ObservedEnergy(energy.operator, energy.functional, energy.y, energy.ridge, path=[])
    solve(observed, energy.start, accuracy)
    return [(x, size / energy.bounds[0]) for x, size in observed.path]


def draw_convergence(
    model: str,
    images: str | None,
    settings: list[str],
    data_root: Path,
    only: list[str] | None = None,
    accuracy: float | None = None,
    look: Look = PAPER,
) -> Figure:
    """The true error is the distance to a solution in float64 that is certified to be TIGHTER. Seven parameters: a
    model, where its problem comes from, and the two choices of the figure."""
    measured = one_image(model, images, only, settings, data_root)
    accuracy = accuracy or measured.config.lower.final_accuracy
    if accuracy <= 0:
        raise ConfigError(f"--accuracy {accuracy:g} must be above 0")
    minimiser = _minimiser(model, measured, settings, data_root, TIGHTER * accuracy)
    energy = measured.reconstruct.energy(measured.y, measured.index)
    descents = {}
    for name, solve in SOLVERS.items():
        path = observe(energy, solve, accuracy)
        errors = [float(norm(x.double() - minimiser)) for x, _ in path]
        descents[name] = Descent(torch.tensor([bound for _, bound in path]), torch.tensor(errors))
    return convergence.draw(descents, accuracy, look)


def _minimiser(model: str, measured: Measured, settings: list[str], data_root: Path, accuracy: float) -> Tensor:
    regularizer, config = assemble.load(model, [*settings, "run.precision=float64"])
    if regularizer.regularizer.guide_at_level():
        raise ConfigError(f"{model} has a guide, which finds another energy in float64: no reference for this figure")
    exact = replace(assemble.reconstructor(config, regularizer, data_root), accuracy=accuracy)
    solution = exact(measured.y.double(), measured.index)
    if not solution.converged:
        raise FigureError(f"the reference could not be certified to {accuracy:.1g}: ask for a larger --accuracy")
    return solution.x


def draw_contrasts(
    model: str,
    images: str | None,
    settings: list[str],
    data_root: Path,
    only: list[str] | None = None,
    look: Look = PAPER,
) -> Figure:
    """What was measured, what the guide made of it, the reconstruction, and the thresholds that the network chose."""
    measured = one_image(model, images, only, settings, data_root)
    reconstruct = measured.reconstruct
    energy = reconstruct.energy(measured.y, measured.index)
    found = getattr(energy.functional, "contrasts", None)
    if found is None:
        raise ConfigError(f"{model} has no contrasts to draw (regularizer.contrast_channels)")
    x = reconstruct.solve(energy, energy.start, reconstruct.accuracy).x
    shown = {"measured": reconstruct.shown(measured.y), "guide": energy.start, "reconstruction": x}
    return contrasts.draw({title: image[0].cpu() for title, image in shown.items()}, 1 / found[0], look)


def animate_reconstruction(
    model: str,
    images: str | None,
    settings: list[str],
    data_root: Path,
    only: list[str] | None = None,
    look: Look = PAPER,
) -> Animation:
    """Every point at which the model's solver asked for a gradient, up to the certified accuracy."""
    measured = one_image(model, images, only, settings, data_root)
    reconstruct = measured.reconstruct
    path = observe(reconstruct.energy(measured.y, measured.index), reconstruct.solve, reconstruct.accuracy)
    iterates = [Iterate(x[0].cpu(), n, float(psnr(x, measured.clean)), bound) for n, (x, bound) in enumerate(path, 1)]
    return animation.reconstruction(reconstruct.shown(measured.y)[0].cpu(), iterates, look)
