"""Blurred photographs with an unknown border: what reconstructing with each rule costs, and a figure of it.

What is measured is a part of a larger blurred image, as a camera takes it (problem.border = valid). It is reconstructed
by the same model with each rule. PSNR in dB over all that was seen, and over its outermost pixels.
"""

import argparse
from pathlib import Path
from statistics import fmean

from torch import Tensor

from app import assemble
from app.commands.errors import USER_ERRORS
from app.drawing.comparison import panel
from app.evaluation.simulation import Simulation, simulation
from app.problem.quality import psnr
from datasets.files import default_data_root
from datasets.image_sets import find_images
from figures import comparison
from figures.comparison import Panel
from figures.regions import Region
from figures.style import PAPER, save
from figures.table import pipes

BORDERS = ("circular", "reflect", "valid")
MODELS = ("foe-deblur-grey-gaussian", "foe-deblur-grey-levin")
OUTER = 10  # pixels


def outer(x: Tensor, clean: Tensor) -> float:  # 2 x (1, C, H, W)
    """Return the PSNR over the outermost pixels."""
    inside = (..., slice(OUTER, -OUTER), slice(OUTER, -OUTER))
    a, b = (x.clamp(0, 1) - clean).square(), (x.clamp(0, 1) - clean)[inside].square()
    return float(-10 * ((a.sum() - b.sum()) / (a.numel() - b.numel())).log10())


def solvers(model: str, data_root: Path) -> dict[str, Simulation]:
    """Return a reconstruction with each rule."""
    loaded = {b: assemble.load(model, [f"problem.border={b}"]) for b in BORDERS}
    return {b: simulation(config, learned, data_root) for b, (learned, config) in loaded.items()}


def reconstructions(by: dict[str, Simulation], path: Path, image: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return what was seen of the clean image, its measurement, and the reconstructions with each rule."""
    valid = by["valid"]
    clean = valid.read(path, False)
    y = valid.measure(clean, (image,))
    found = {border: s.seen_in(s(y, (image,)).x) for border, s in by.items()}
    return valid.seen_in(clean), y, found


def table(models: list[str], images: str, data_root: Path) -> str:
    """Return the means over images as a Markdown table."""
    heads = [f"{name}{where}" for name in ("measured", *BORDERS) for where in ("", f", outer {OUTER}")]
    body = []
    for model in models:
        by, rows = solvers(model, data_root), []
        for i, path in enumerate(find_images(images, data_root, False).paths):
            clean, y, found = reconstructions(by, path, i)
            rows.append([f(x, clean) for x in (y, *found.values()) for f in (lambda a, b: float(psnr(a, b)), outer)])
        body.append([model, *(f"{fmean(column):.2f}" for column in zip(*rows, strict=True))])
    return pipes(["model", *heads], body)


def figure(model: str, images: str, out: Path, data_root: Path) -> None:
    """Draw the first image, with a corner magnified."""
    path = find_images(images, data_root, False).paths[0]
    clean, y, found = reconstructions(solvers(model, data_root), path, 0)
    row = {"clean": Panel(clean[0])} | {name: panel(x, clean) for name, x in {"measured": y, **found}.items()}
    side = clean.shape[2] // 4
    corner = Region(clean.shape[2] - side, clean.shape[3] - side, side)
    save(comparison.draw([row], [[corner]], False, PAPER), out)


def main() -> None:
    """Print the table, and draw the figure where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="bsds500:val32")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--shown", default="builtin:test", help="images whose first is drawn")
    parser.add_argument("--data-root", type=Path, default=default_data_root())
    o = parser.parse_args()
    try:
        print(table(o.models, o.images, o.data_root), end="")
        if o.figure:
            figure(o.models[0], o.shown, o.figure, o.data_root)
    except USER_ERRORS as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
