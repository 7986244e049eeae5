"""Reconstructions by models, and results that others computed, beside the clean images."""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from app import assemble
from app.drawing.measured import Asked, shown
from app.drawing.sources import chosen_images, is_called, labelled
from app.evaluation.baselines import label as baseline_label
from app.evaluation.baselines import load, prepare
from app.evaluation.simulation import simulation
from app.models.build import Model
from app.problem.quality import psnr, ssim
from app.settings.options import Config, ConfigError
from datasets.files import home_expanded
from datasets.images import Range, list_images, read_all, read_image
from datasets.patches import whole_blocks
from figures import comparison
from figures.comparison import Panel, Row
from figures.regions import Region, most_different
from figures.style import PAPER, FigureError, Look

Places = list[tuple[str | None, tuple[int, ...]]]  # (image or None for all, (x, y[, size]))


def draw_comparison(
    sources: list[str],
    images: str | None,
    crop: int,
    settings: list[str],
    data_root: Path,
    zooms: int = 1,
    at: Places | None = None,
    only: list[str] | None = None,
    errors: bool = False,
    measured: str | None = None,
    limits: Range | None = None,
    baselines: tuple[str, ...] = (),
    weights: Path | None = None,
    look: Look = PAPER,
) -> Figure:
    """Draw [LABEL=]SOURCE side by side: models, and folders of results that others computed; then baselines.

    crop: side of the magnified regions in pixels.  zooms: how many are found, where the errors differ most.  at: their
    places instead.  only: names of images.  errors: maps of |image - clean|.  measured: a file or folder of what was
    measured; without images, of what nobody has seen.  limits: black and white of its files of floats.  baselines:
    names of other methods.  weights: folder of those of networks; None: deepinv downloads them.  Raises ConfigError and
    FigureError. The many parameters are all that a comparison can be asked for.
    """
    if measured is None and limits:
        raise ConfigError("--range BLACK WHITE is for files of --measured")
    if errors and images is None:
        raise ConfigError("--errors are |image - clean|: name the clean images with --images")
    for label, _ in labelled(sources):
        if label in baselines:
            raise ConfigError(f"two columns are called {label!r}: name the source with LABEL=SOURCE")
    if measured is None:
        rows = panels(sources, images, only, settings, data_root, baselines, weights)
    else:
        asked = Asked(measured=measured, images=images, only=only, limits=limits, baselines=baselines, weights=weights)
        rows = panels_of_measured(sources, asked, settings, data_root)
    if at:
        regions = [_given(name, row, at, crop) for name, row in rows.items()]
        for image in (image for image, _ in at if image and not any(is_called(name, image) for name in rows)):
            raise ConfigError(f"--at {image}: no such image; drawn are {', '.join(rows)}")
    else:
        regions = [_found(row, crop, zooms) for row in rows.values()]
    return comparison.draw(list(rows.values()), regions, errors, look)


def panels(
    sources: list[str], images: str | None, only: list[str] | None, settings: list[str], data_root: Path,
    baselines: tuple[str, ...] = (), weights: Path | None = None,
) -> dict[str, Row]:  # fmt: skip
    """Return the rows of the figure by the image's name. Raises ConfigError, ImageError and FigureError. Folders
    without a model hold results. What is measured is the problem of the models. The parameters are those of a
    comparison; the lines measure each image once for all columns."""
    named = labelled(sources)
    models = [source for _, source in named if _is_model(source)]
    loaded = assemble.load_comparable(models, settings)
    networks = _networks(baselines, loaded, weights)
    color = next((config.data.color for _, config in loaded.values()), False)
    chosen = chosen_images(images, only, color, data_root)
    rows: dict[str, Row] = {}
    files = {i: path for i, _, path in chosen}
    simulations = {source: simulation(config, model, data_root, files) for source, (model, config) in loaded.items()}
    measuring = next((s.measuring for s in simulations.values()), None)
    whole: dict[str, torch.Tensor] = {}
    cleans = read_all(chosen, lambda image: read_image(image[2], color if loaded else None))
    for (_, name, _), clean in zip(chosen, cleans, strict=True):
        whole[name] = whole_blocks(clean, measuring.multiple) if measuring else clean
        rows[name] = {"clean": Panel(measuring.seen_in(whole[name]) if measuring else clean)}
    for label, source in named:
        if label in next(iter(rows.values())):
            raise ConfigError(f"two columns are called {label!r}: name them with LABEL=SOURCE")
        if source not in loaded:
            _add_results(rows, label, Path(source))
            continue
        reconstruct = simulations[source]
        for i, name, _ in chosen:
            row, clean = rows[name], reconstruct.to_device(whole[name][None])
            y = reconstruct.measure(clean, (i,))
            found = {label: reconstruct(y, (i,), clean.shape[1:]).x}
            if "degraded" not in row:
                found["degraded"] = reconstruct.as_image(y, (i,), clean.shape[1:])
            for column, x in found.items():
                row[column] = panel(reconstruct.seen_in(x), reconstruct.seen_in(clean))
    for name in baselines:
        seen = simulations[models[0]]
        method = prepare(name, networks, loaded[models[0]][1], seen, data_root, quiet=True).method
        for i, image, _ in chosen:
            clean = seen.to_device(whole[image][None])
            rows[image][name] = panel(method(seen.measure(clean, (i,)), i), seen.seen_in(clean))
    first = ("clean", "degraded")
    return {n: {k: row[k] for k in sorted(row, key=lambda k: k not in first)} for n, row in rows.items()}


def panels_of_measured(sources: list[str], asked: Asked, settings: list[str], data_root: Path) -> dict[str, Row]:
    """Return the rows of the figure by the name of what was measured; they begin with the clean image where there is
    one. Raises ConfigError, ImageError and FigureError."""
    named, rows = labelled(sources), dict[str, Row]()
    models = [source for _, source in named if _is_model(source)]
    columns = [*named, *((name, baseline_label(name)) for name in asked.baselines)]
    for found in shown(asked, models, settings, data_root):
        row = rows[found.name] = {} if found.clean is None else {"clean": Panel(found.clean[0].cpu())}
        of = {"measured": found.picture} | {label: found.results[s] for label, s in columns if s in found.results}
        row |= {label: Panel(x[0].cpu()) if found.clean is None else panel(x, found.clean) for label, x in of.items()}
    for label, source in named:
        if source not in models:
            _add_results(rows, label, Path(source))
    return rows


def _networks(
    baselines: tuple[str, ...], loaded: dict[str, tuple[Model, Config]], weights: Path | None
) -> dict[str, nn.Module]:
    """Return the networks among the baselines. Raises ConfigError where one cannot run, and where no model tells what
    is measured."""
    if loaded:
        return load(baselines, next(config for _, config in loaded.values()), weights)
    if baselines or weights:
        raise ConfigError("--baselines need a model beside them: without one, nobody knows what is measured")
    return {}


def panel(x: torch.Tensor, clean: torch.Tensor) -> Panel:  # (1, C, H, W), (1, C, H, W)
    """Return the panel of one image with its PSNR and SSIM."""
    similarity = float(ssim(x, clean))
    return Panel(x[0].cpu(), float(psnr(x, clean)), None if math.isnan(similarity) else similarity)


def _is_model(source: str) -> bool:
    path = home_expanded(source)
    return not path.is_dir() or any((path / name).exists() for name in ("model.safetensors", "config.toml"))


def _add_results(rows: dict[str, Row], label: str, folder: Path) -> None:
    files = list_images(home_expanded(folder))
    for name, row in rows.items():
        first, file = next(iter(row.values())).image, _result_of(name, list(rows), files)
        if file is None:
            raise ConfigError(f"{folder} has no result for the image {name!r}, or several that could be it")
        x = read_image(file, color=len(first) == 3)
        if x.shape != first.shape:
            sizes = [f"{t.shape[2]} x {t.shape[1]}" for t in (x, first)]
            raise FigureError(f"{file} has {sizes[0]} pixels, the {next(iter(row))} image {sizes[1]}")
        row[label] = panel(x[None], first[None]) if "clean" in row else Panel(x)


def _result_of(name: str, names: list[str], files: list[Path]) -> Path | None:
    """Return the file of the same name as the image or, where this tells images and files apart, of the same stem."""
    for part in (lambda path: path.name, lambda path: path.stem):
        wanted = part(Path(name))
        found = [file for file in files if part(file) == wanted]
        if len(found) == 1 and sum(part(Path(other)) == wanted for other in names) == 1:
            return found[0]
    return None


def _found(row: Row, crop: int, zooms: int) -> list[Region]:
    clean, *_ = row.values()
    others = [p.image for name, p in row.items() if name not in ("clean", "degraded", "measured")]
    return most_different(clean.image, others, crop, zooms)


def _given(name: str, row: Row, at: Places, crop: int) -> list[Region]:
    h, w = row["clean"].image.shape[1:]
    places = [place for image, place in at if image is None or is_called(name, image)]
    regions = [Region(place[1], place[0], (*place, crop)[2]) for place in places]
    for r in regions:
        if r.row + r.size > h or r.column + r.size > w:
            raise ConfigError(f"--at {r.column},{r.row},{r.size} leaves the image {name!r} of {w} x {h} pixels")
    return regions
