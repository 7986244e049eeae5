"""`figure`, and the figures every run ends with."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from app import assemble
from app.losses import psnr, ssim
from app.models import load_model
from app.options import ConfigError
from app.training import records
from app.training.checkpoint import RunError
from datasets.image_sets import find_images
from datasets.images import read_image
from figures import comparison, curves, filters
from figures.style import save
from regularizers import FieldOfExperts, Regularizer


def figure(
    kind: str,
    sources: list[str],
    images: str | None,
    crop: int,
    settings: list[str],
    data_root: Path,
    out: Path,
    dpi: int,
) -> int:
    if out.suffix not in (".pdf", ".png", ".svg"):
        raise ConfigError(f"--out {out}: the suffix must be .pdf, .png or .svg")
    if kind == "curves":
        drawn = draw_curves([Path(s) for s in sources])
    elif kind == "filters":
        if len(sources) != 1:
            raise ConfigError("figure filters draws one model")
        drawn = draw_filters(load_model(sources[0])[0].regularizer, sources[0])
    else:
        if images is None:
            raise ConfigError("figure comparison needs --images")
        drawn = draw_comparison(sources, images, crop, settings, data_root)
    out.parent.mkdir(parents=True, exist_ok=True)
    save(drawn, out, dpi)
    print(out)
    return 0


def draw_curves(runs: list[Path]) -> Figure:
    for run in runs:
        if not (run / "metrics.csv").is_file():
            raise RunError(f"{run} is not a run folder (no metrics.csv)")
    labels = _labels([str(run) for run in runs])
    return curves.draw({label: records.read(run / "metrics.csv") for label, run in zip(labels, runs, strict=True)})


def draw_filters(regularizer: Regularizer, name: str) -> Figure:
    if not isinstance(regularizer, FieldOfExperts):
        raise ConfigError(f"{name} has no filters to draw (figure filters is for foe)")
    with torch.no_grad():
        functional = regularizer.functional()
    return filters.draw(functional.filters, functional.weights, functional.smoothings)


def draw_comparison(models: list[str], images: str, crop: int, settings: list[str], data_root: Path) -> Figure:
    rows: list[dict[str, comparison.Panel]] = []
    loaded = assemble.load_comparable(models, settings)
    for label, (model, config) in zip(_labels(list(loaded)), loaded.values(), strict=True):
        reconstruct = assemble.reconstructor(config, model, data_root)
        for i, path in enumerate(find_images(images, data_root, config.data.color).paths):
            clean = reconstruct.to_device(read_image(path, config.data.color)[None])
            y = reconstruct.measure(clean, (i,))
            if len(rows) <= i:
                rows.append({"clean": comparison.Panel(clean[0].cpu()), "degraded": _panel(y, clean)})
            rows[i][label] = _panel(reconstruct(y, (i,)).x, clean)
    return comparison.draw(rows, crop)


def _labels(sources: list[str]) -> list[str]:
    """Short names of models or runs; the sources as they were given where short names would coincide."""
    paths = [Path(source) for source in sources]
    names = [path.stem if path.suffix == ".safetensors" else path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else sources


def _panel(x: torch.Tensor, clean: torch.Tensor) -> comparison.Panel:
    return comparison.Panel(x[0].cpu(), float(psnr(x, clean)), float(ssim(x, clean)))
