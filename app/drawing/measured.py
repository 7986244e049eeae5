"""Reconstructions of what was measured, side by side, with the clean images where there are any."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from app import assemble
from app.drawing.sources import is_called
from app.evaluation import baselines, noise_check
from app.evaluation.evaluate import Pair
from app.evaluation.measured import Files, config_of_files, files_of, pair, sources_of
from app.evaluation.simulation import Simulation, simulation
from app.settings.options import Config, ConfigError
from datasets.image_sets import find_images
from datasets.images import Range, read_all


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be drawn: a file or folder of measurements and, where they are known, of the clean images."""

    measured: str
    images: str | None
    only: list[str] | None
    limits: Range | None  # black and white in files of floats
    baselines: tuple[str, ...] = ()
    weights: Path | None = None  # folder of those of networks


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One measurement: the clean image, what can be shown of it, and what models make of it."""

    name: str
    clean: Tensor | None  # (1, C, h, w)
    picture: Tensor  # (1, C, h, w)
    results: dict[str, Tensor]  # by model, and by the label of a baseline


def shown(asked: Asked, models: list[str], settings: list[str], data_root: Path) -> list[Shown]:
    """Reconstruct what was measured by all models. Raises ConfigError, ImageError and ModelError."""
    loaded = {
        name: (model, config_of_files(config, settings, False))
        for name, (model, config) in assemble.load_comparable(models, settings).items()
    }
    if not loaded:
        raise ConfigError("--measured needs a model: without one, nobody knows what was measured")
    config = next(config for _, config in loaded.values())
    networks = baselines.load(asked.baselines, config, asked.weights)
    files, cleans = _files(asked, config, data_root)
    chosen = [i for i, s in enumerate(files.sources) if not asked.only or any(is_called(s.name, w) for w in asked.only)]
    names = {i: source.path.with_stem(source.name) for i, source in enumerate(files.sources)}
    if not chosen:
        raise ConfigError(f"--only: {asked.measured} has {', '.join(path.name for path in names.values())}")
    simulated = {name: simulation(own, model, data_root, names) for name, (model, own) in loaded.items()}
    first = next(iter(simulated.values()))
    pairs = read_all(chosen, lambda i: _pair(files, first, i, cleans))
    others = [baselines.prepare(name, networks, config, first, data_root, quiet=True) for name in asked.baselines]
    found = []
    for i, known in zip(chosen, pairs, strict=True):
        results = {}
        for name, (model, own) in loaded.items():
            reconstruct = simulated[name]
            if not noise_check.is_given(settings):
                reconstruct, _ = noise_check.at_estimated_level(reconstruct, model, own.problem, known.y, i)
            results[name] = first.seen_in(reconstruct(known.y, (i,), known.shape).x)
        results |= {other.label: other.method(known.y, i) for other in others}
        picture, clean = first.seen_in(first.as_image(known.y, (i,), known.shape)), known.clean if cleans else None
        found.append(Shown(name=names[i].name, clean=clean, picture=picture, results=results))
    return found


def _files(asked: Asked, config: Config, data_root: Path) -> tuple[Files, tuple[Path, ...]]:
    """Return the measurements, and the clean images in their order; none where no images are named."""
    if asked.images is None:
        return Files(sources=sources_of([asked.measured], data_root, config), config=config, limits=asked.limits), ()
    images = find_images(asked.images, data_root, config.data.color).paths
    return files_of(images, asked.measured, config, asked.limits), images


def _pair(files: Files, simulated: Simulation, i: int, cleans: tuple[Path, ...]) -> Pair:
    """Return the pair of a clean image, or a measurement and a black image where there is no clean one."""
    if cleans:
        return pair(files, simulated, i, simulated.read(cleans[i], files.config.data.color))
    y = files.measurement(i, simulated).y
    shape = simulated.measuring.image_shape(y.shape[1:])
    return Pair(reconstruct=simulated, y=y, shape=shape, clean=y.new_zeros(1, *shape))
