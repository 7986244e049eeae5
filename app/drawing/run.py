"""What a run draws when it ends."""

from pathlib import Path

from app.drawing.comparison import draw_comparison
from app.drawing.learned import draw_filters
from app.drawing.runs import draw_curves
from app.training.run import Run
from datasets.image_sets import find_images
from figures.style import save
from regularizers import Adaptive, FieldOfExperts


def draw_run(run: Run, data_root: Path) -> list[str]:
    folder, regularizer = run.folder, run.model.regularizer
    save(draw_curves([str(folder)]), folder / "curves.png")
    names = ["model.safetensors", "curves.png"]
    if isinstance(regularizer, FieldOfExperts | Adaptive):
        save(draw_filters(regularizer, folder.name), folder / "filters.png")
        names.append("filters.png")
    held_out = find_images(run.config.data.validation, data_root, run.config.data.color)
    for suffix in ("png", "pdf"):
        drawn = draw_comparison([str(folder)], str(held_out.paths[0]), 64, [], data_root)
        save(drawn, folder / f"reconstruction.{suffix}")
        names.append(f"reconstruction.{suffix}")
    return names
