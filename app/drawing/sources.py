"""Names of what is drawn, and the images it is drawn from."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from app import assemble
from app.drawing.arguments import split_label
from app.evaluation.simulation import Simulation, simulation
from app.lower.energy import Energy
from app.settings.options import Config, ConfigError
from datasets.image_sets import find_images, names_of


def labelled(sources: list[str]) -> list[tuple[str, str]]:
    """Return (label, source) of every [LABEL=]SOURCE.

    The label of a source without one is its short name, or all of it where short names coincide.
    """
    given = [split_label(source) for source in sources]
    short = [label or _short(source) for label, source in given]
    clear = [label or (name if short.count(name) == 1 else source)
             for (label, source), name in zip(given, short, strict=True)]  # fmt: skip
    return [(label, source) for label, (_, source) in zip(clear, given, strict=True)]


def _short(source: str) -> str:
    path = Path(source)
    return path.stem if path.suffix in (".safetensors", ".csv") else path.resolve().name


def chosen_images(
    images: str | None, only: list[str] | None, color: bool, data_root: Path
) -> list[tuple[int, str, Path]]:
    """Return (position in the set, name, file) of the images that are wanted. Raises ConfigError and ImageError. The
    position decides on the noise, so that it does not depend on what else is drawn."""
    if images is None:
        raise ConfigError("--images is missing: which images?")
    paths = find_images(images, data_root, color).paths
    names = names_of(paths)
    for wanted in only or []:
        if not any(is_called(name, wanted) for name in names):
            raise ConfigError(f"--only {wanted}: no such image in {images}, which has {', '.join(names[:8])}")
    found = zip(range(len(paths)), names, paths, strict=True)
    return [image for image in found if not only or any(is_called(image[1], wanted) for wanted in only)]


def is_called(name: str, wanted: str) -> bool:
    """Tell whether an image is meant: by its path in its set, or without folder or suffix."""
    return wanted in (name, Path(name).name, Path(name).stem)


@dataclass(frozen=True)
class Measured:
    """One clean image, its measurement y, and the reconstructor of the model."""

    config: Config
    reconstruct: Simulation
    index: tuple[int]  # in its set
    path: Path
    clean: Tensor  # (1, C, H, W)
    y: Tensor

    @property
    def energy(self) -> Energy:
        """h; the problem of a guide has been solved."""
        return self.reconstruct.problem(self.y, self.index, self.clean.shape[1:]).energy()

    @property
    def picture(self) -> Tensor:
        """y as an image (1, C, H, W)."""
        return self.reconstruct.as_image(self.y, self.index, self.clean.shape[1:])


def one_image(model: str, images: str | None, only: list[str] | None, settings: list[str], data_root: Path) -> Measured:
    """Load a model and measure the one image that is wanted. Raises ConfigError where there are several."""
    regularizer, config = assemble.load(model, settings)
    chosen = chosen_images(images, only, config.data.color, data_root)
    if len(chosen) > 1:
        names = ", ".join(name for _, name, _ in chosen[:8])
        raise ConfigError(f"this is of one image, and {images} has {len(chosen)}: choose with --only from {names}")
    (i, _, path) = chosen[0]
    reconstruct = simulation(config, regularizer, data_root, {i: path})
    clean = reconstruct.read(path, config.data.color)
    return Measured(config, reconstruct, (i,), path, clean, reconstruct.measure(clean, (i,)))
