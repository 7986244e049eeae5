"""`reconstruct`."""

from argparse import Namespace

from app import assemble
from app.evaluation import noise_check
from app.evaluation.measured import Files, config_of_files, summary
from app.evaluation.simulation import simulation
from app.files import write_atomically
from app.problem.quality import psnr
from datasets.encode import encode_like
from datasets.files import printable
from datasets.image_sets import find_images
from datasets.images import read_picture
from datasets.patches import whole_blocks


def reconstruct(o: Namespace, settings: list[str]) -> int:
    """Reconstruct image files, measured first where o.degrade. Raises ConfigError and ImageError before
    anything is written."""
    model, config = assemble.load(o.model, settings)
    config = config_of_files(config, settings, o.degrade)
    simulated, color = simulation(config, model, o.data_root), config.data.color
    paths = [p for spec in o.images for p in find_images(spec, o.data_root, color).paths]
    files = Files(paths=paths, color=color, out=o.out, degrade=o.degrade, limits=o.range, keep=o.keep)
    targets = files.targets(simulated)
    o.out.mkdir(parents=True, exist_ok=True)
    noise_check.warn_of_level(o.model, config.problem)
    for i, (path, own) in enumerate(zip(paths, targets, strict=True)):
        if all(target.exists() for target in own):
            print(f"{printable(own[0])}: kept")
            continue
        picture, clean = read_picture(path, color, o.range), None
        y = simulated.to_device(picture.image[None])
        if o.degrade:
            clean = simulated.to_device(whole_blocks(picture.image, simulated.measuring.multiple)[None])
            y = simulated.measure(clean, (i,))
        shape = None if clean is None else clean.shape[1:]
        solution = simulated(y, (i,), shape)
        x = simulated.seen_in(solution.x)
        shown = y if config.problem.measures_images else simulated.seen_in(simulated.as_image(y, (i,), shape))
        for target, image in zip(own, (x, shown), strict=False):
            if not target.exists():
                write_atomically(target, encode_like(picture, image[0]))
        quality = "" if clean is None else f"PSNR {float(psnr(x, simulated.seen_in(clean))):.2f} dB, "
        print(f"{printable(own[0])}: {quality}{summary(solution, model.regularizer.guide_at_level() is not None)}")
        if not o.degrade:
            noise_check.warn_of_noise(path, y, config.problem)
    return 0
