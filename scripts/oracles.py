"""What adaptive models gain from a better z, the image that their thresholds are found from: mean PSNR in dB.

The reconstruction is fed back as z, some times, and the clean image is z at last: a bound that no z attains that is
found from measurements. Where feeding back helps, a chain is worth training; where only the clean image does, a better
guide is; where neither does, the network or the potentials limit the model.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from app import assemble
from app.commands.errors import USER_ERRORS
from app.evaluation.simulation import Simulation, simulation
from app.problem.quality import psnr
from app.settings.options import ConfigError
from datasets.files import default_data_root
from datasets.image_sets import find_images
from datasets.images import read_image
from datasets.patches import centre_crop, whole_blocks
from figures.table import pipes

FED_BACK = 3  # times at most
HEADS = ("guide", "reconstruction", *(f"fed back {n + 1}" for n in range(FED_BACK)), "z = clean")


def qualities(s: Simulation, path: Path, image: int, color: bool, crop: int) -> list[float]:
    """Return the PSNR of one image, for each of HEADS."""
    small = centre_crop(read_image(path, color), crop)
    clean = s.to_device(whole_blocks(small, s.measuring.multiple)[None])
    last = first = s.problem(s.measure(clean, (image,)), (image,), clean.shape[1:])
    while first.before is not None and first.before.guided is not None:
        first = first.before
    problems = [last]
    for _ in range(FED_BACK):
        problems.append(problems[-1].followed_by(last.regularizer, s.solver))
    problems.append(replace(last, regularizer=last.regularizer.conditioned_on(clean)))
    assert first.guided is not None, "the guide's result"
    found = [first.guided.x, *(p.solve(s.solver, s.accuracy).x for p in problems)]
    return [float(psnr(s.seen_in(x), s.seen_in(clean))) for x in found]


def table(models: list[str], images: str, crop: int, data_root: Path) -> str:
    """Return the means over images as a Markdown table. Raises ConfigError for a model without a guide."""
    body = []
    for name in models:
        model, config = assemble.load(name, [])
        if model.regularizer.guide_at_level() is None:
            raise ConfigError(f"{name} has no guide: it is conditioned on nothing")
        s, color = simulation(config, model, data_root), config.data.color
        rows = [qualities(s, p, i, color, crop) for i, p in enumerate(find_images(images, data_root, color).paths)]
        body.append([name, *(f"{fmean(column):.2f}" for column in zip(*rows, strict=True))])
    return pipes(["model", *HEADS], body)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--images", default="bsds500:val32")
    parser.add_argument("--crop", type=int, default=160, help="side of the centre crops in pixels")
    parser.add_argument("--data-root", type=Path, default=default_data_root())
    o = parser.parse_args()
    try:
        print(table(o.models, o.images, o.crop, o.data_root), end="")
    except USER_ERRORS as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
