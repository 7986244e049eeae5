"""`reconstruct`."""

import os
from argparse import Namespace
from math import inf
from pathlib import Path

from app import assemble
from app.evaluation.simulation import Simulation, simulation
from app.files import write_atomically
from app.lower.solution import GIVEN_GUIDE, NOT_CERTIFIED, LowerSolution, rounded_up
from app.problem.quality import psnr
from app.settings.options import ConfigError
from app.settings.tasks import Deblur, Inpaint, Problem, SuperResolution
from app.settings.toml import override
from app.training.checkpoint import RunError
from datasets.encode import encode_like
from datasets.files import printable
from datasets.image_sets import find_images
from datasets.images import read_all, read_picture, read_pixels
from datasets.patches import whole_blocks


def reconstruct(o: Namespace, settings: list[str]) -> int:
    """Reconstruct image files, measured first where o.degrade. Raises ConfigError, RunError and ImageError before
    anything is written."""
    loaded, config = assemble.load(o.model, settings)
    _check_problem(config.problem, o.degrade)
    if isinstance(config.problem, Deblur | SuperResolution) and not o.degrade and not config.problem.learns_kernel:
        config = override(config, ["problem.border=valid", *settings])  # no camera's image goes on at its other side
    if o.range and not -inf < o.range[0] < o.range[1] < inf:
        raise ConfigError("--range BLACK WHITE must be two numbers in order")
    color, simulated = config.data.color, simulation(config, loaded, o.data_root)
    paths = [p for spec in o.images for p in find_images(spec, o.data_root, color).paths]
    targets = _targets(paths, color, simulated, o)
    o.out.mkdir(parents=True, exist_ok=True)
    for i, (path, own) in enumerate(zip(paths, targets, strict=True)):
        if all(target.exists() for target in own):
            print(f"{printable(own[0])}: kept")
            continue
        picture, clean = read_picture(path, color, o.range), None
        y = simulated.to_device(picture.image[None])
        if o.degrade:
            clean = simulated.to_device(whole_blocks(picture.image, simulated.measuring.multiple)[None])
            y = simulated.measure(clean, (i,))
        solution = simulated(y, (i,))
        x = simulated.seen_in(solution.x)
        for target, image in zip(own, (x, y), strict=False):
            if not target.exists():
                write_atomically(target, encode_like(picture, image[0]))
        quality = "" if clean is None else f"PSNR {float(psnr(x, simulated.seen_in(clean))):.2f} dB, "
        print(f"{printable(own[0])}: {quality}{_summary(solution, loaded.regularizer.guide_at_level() is not None)}")
    return 0


def _check_problem(problem: Problem, degrade: bool) -> None:
    if isinstance(problem, Inpaint) and not degrade:
        raise ConfigError("which pixels of a measured image are missing is not known: inpainting needs --degrade")
    if isinstance(problem, Deblur) and problem.kernel == "levin:all" and not degrade:
        raise ConfigError("which kernel blurred a measured image is not known: name it with --kernel, as levin:1")


def _targets(paths: list[Path], color: bool, simulated: Simulation, o: Namespace) -> list[tuple[Path, ...]]:
    """Check every image, and return where its result goes and, where it is degraded, its measurement. Raises ImageError
    and RunError where a file would be lost."""
    check = simulated.check_sizes()

    def targets(i: int) -> tuple[Path, ...]:
        picture = read_picture(paths[i], color, o.range)
        clean = whole_blocks(picture.image, simulated.measuring.multiple)
        check(i, paths[i], clean.shape if o.degrade else simulated.measuring.image_shape(picture.image.shape))
        ends = ("", "_degraded") if o.degrade else ("",)
        return tuple(o.out / f"{paths[i].stem}{end}{picture.suffix}" for end in ends)

    found, source = read_all(range(len(paths)), targets), dict[Path, Path]()
    if o.range and all(own[0].suffix == ".png" for own in found):
        raise ConfigError("--range is for .npy files and float TIFF: 8 and 16 bits have their own black and white")
    inputs = {path.resolve() for path in paths}
    for path, own in zip(paths, found, strict=True):
        for target in own:
            lost = f"{printable(target)} would be overwritten"
            if target in source:
                both = f"it is made from {printable(source[target])} and from {printable(path)}"
                raise RunError(f"{lost}, {both}: rename one, or choose another --out for it")
            if os.path.lexists(target) and (not o.keep or target.resolve() in inputs):
                raise RunError(f"{lost}: choose another --out, rename the images, or --continue")
            source[target] = path
    read_all(filter(os.path.lexists, source), read_pixels)  # what is kept must be whole
    return found


def _summary(solution: LowerSolution, guided: bool) -> str:
    cost = f"{int(solution.iterations)} iterations" + ("" if solution.converged else " (accuracy not reached)")
    if solution.error_bound.isinf():
        cost = f"{int(solution.iterations)} iterations ({NOT_CERTIFIED})"
    given = f" {GIVEN_GUIDE}" if guided else ""
    return f"||x - argmin h|| <= {rounded_up(float(solution.error_bound))}{given}, {cost}"
