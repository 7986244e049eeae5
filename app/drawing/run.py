"""What a run draws when it ends."""

from pathlib import Path

from app.drawing.comparison import draw_comparison
from app.drawing.learned import filters_of
from app.drawing.runs import draw_curves
from app.files import write_own
from app.training.run import Run
from datasets.image_sets import find_images
from figures.style import encoded


def draw_run(run: Run, data_root: Path) -> list[str]:
    """Draw curves, filters where there are any, and a reconstruction into the run folder; return the files' names."""
    folder, regularizer = run.folder, run.model.regularizer
    held_out = find_images(run.config.data.validation, data_root, run.config.data.color)
    drawn = {
        "curves.png": draw_curves([str(folder)]),
        "filters.png": filters_of(regularizer),
        "reconstruction.png": draw_comparison([str(folder)], str(held_out.paths[0]), 64, [], data_root),
    }
    drawn["reconstruction.pdf"] = drawn["reconstruction.png"]
    for name, figure in drawn.items():
        if figure is not None:
            write_own(folder / name, encoded(figure, Path(name).suffix))
    return ["model.safetensors", *(name for name, figure in drawn.items() if figure is not None)]
