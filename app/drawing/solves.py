"""The lower level at work on one image: its solvers, gradient by gradient, and what it found."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from app import assemble
from app.drawing.runs import animate_filters
from app.drawing.sources import Measured, one_image
from app.evaluation.simulation import simulation
from app.lower import agd, lbfgs
from app.lower.energy import Energy, Solver
from app.lower.solution import norm
from app.problem.quality import psnr
from app.settings.options import ConfigError
from figures import animation, contrasts, convergence
from figures.animation import Animation, Iterate
from figures.convergence import Descent
from figures.style import PAPER, FigureError, Look

SOLVERS: dict[str, Solver] = {"L-BFGS": lbfgs.solve, "accelerated gradient": agd.solve}
TIGHTER = 1e-2  # accuracy of the reference in units of the solvers'


@dataclass(frozen=True)
class ObservedEnergy(Energy):
    """The energy h of one image, which keeps every point at which its gradient was asked for."""

    path: list[tuple[Tensor, float]] = field(kw_only=True)  # x (1, C, H, W) and ||grad h(x)||

    def gradient(self, x: Tensor) -> Tensor:
        g = super().gradient(x)
        self.path.append((x.clone(), float(norm(g))))
        return g


def observe(energy: Energy, solve: Solver, accuracy: float) -> list[tuple[Tensor, float]]:
    """Return every point x (1, C, H, W) where `solve` asked for a gradient, with its bound ||grad h(x)|| / mu."""
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
    """Draw the error bound and the true error of both solvers, gradient by gradient.

    The true error is the distance to a solution in float64 that is certified to TIGHTER times the accuracy. The seven
    parameters are a model, where its problem comes from, and the choices of the figure. Raises ConfigError for a wrong
    accuracy or several images, FigureError where the reference cannot be certified.
    """
    measured = one_image(model, images, only, settings, data_root)
    accuracy = accuracy or measured.config.lower.final_accuracy
    if accuracy <= 0:
        raise ConfigError(f"--accuracy {accuracy:g} must be above 0")
    minimiser = _minimiser(model, measured, settings, data_root, TIGHTER * accuracy)
    energy = measured.energy
    descents = {}
    for name, solve in SOLVERS.items():
        path = observe(energy, solve, accuracy)
        errors = [float(norm(x.double() - minimiser)) for x, _ in path]
        descents[name] = Descent(torch.tensor([bound for _, bound in path]), torch.tensor(errors))
    return convergence.draw(descents, accuracy, look)


def _minimiser(model: str, measured: Measured, settings: list[str], data_root: Path, accuracy: float) -> Tensor:
    """Return the minimiser (1, C, H, W) in float64, certified to this accuracy."""
    regularizer, config = assemble.load(model, [*settings, "run.precision=float64"])
    if regularizer.regularizer.guide_at_level():
        raise ConfigError(f"{model} has a guide, which finds another energy in float64: no reference for this figure")
    files = {measured.index[0]: measured.path}
    exact = replace(simulation(config, regularizer, data_root, files), accuracy=accuracy)
    solution = exact(measured.y.double(), measured.index, measured.clean.shape[1:])
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
    """Draw the measurement, what the thresholds are found from, the reconstruction, the thresholds, and the masks where
    the model has them. Raises ConfigError where it has no contrasts."""
    measured = one_image(model, images, only, settings, data_root)
    reconstruct, energy = measured.reconstruct, measured.energy
    found = getattr(energy.functional, "contrasts", None)
    if found is None:
        raise ConfigError(f"{model} has no contrasts to draw (regularizer.contrast_channels)")
    x = reconstruct.solver(energy, energy.start, reconstruct.accuracy).x
    updates = reconstruct.regularizer.updates
    before = "guide" if updates == 1 else f"update {updates - 1}"
    shown = {"measured": measured.picture, before: energy.start, "reconstruction": x}
    seen_in = reconstruct.seen_in
    pictures = {title: seen_in(x)[0].cpu() for title, x in shown.items()}
    masks = getattr(energy.functional, "masks", None)
    return contrasts.draw(pictures, seen_in(1 / found[0]), None if masks is None else seen_in(masks[0]), look)


def animate(
    source: str,
    images: str | None,
    settings: list[str],
    data_root: Path,
    only: list[str] | None = None,
    look: Look = PAPER,
) -> Animation:
    """Draw every point where the model's solver asked for a gradient, or without images the filters of a run while it
    learned. Raises ConfigError for several images."""
    if images is None:
        return animate_filters(source, look)
    measured = one_image(source, images, only, settings, data_root)
    path = observe(measured.energy, measured.reconstruct.solver, measured.reconstruct.accuracy)
    seen_in, iterates = measured.reconstruct.seen_in, []
    for n, (x, bound) in enumerate(path, 1):
        quality = float(psnr(seen_in(x), seen_in(measured.clean)))
        iterates.append(Iterate(seen_in(x)[0].cpu(), n, quality, bound))
    return animation.reconstruction(seen_in(measured.picture)[0].cpu(), iterates, look)
