"""`reconstruct`."""

import io
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from app import assemble
from app.evaluation import mask_check, noise_check
from app.evaluation.measured import Files, assumed, config_of_files, sources_of, summary
from app.evaluation.simulation import Simulation, simulation
from app.files import write_atomically
from app.models.build import Model
from app.problem.quality import psnr
from app.processes import Processes, joined
from app.scale import brightness_fault
from app.settings.options import Config
from datasets.encode import encode_like
from datasets.files import printable
from datasets.patches import whole_blocks

DARK = 1 / 8  # of white: a brightest pixel that is below belongs to 12 bits in a file of 16


def reconstruct(o: Namespace, settings: list[str]) -> int:
    """Reconstruct files, measured first where o.degrade. Raises ConfigError, ImageError and MaskError before anything
    is written, and ProcessError."""
    model, config = assemble.load(o.model, settings)
    config = config_of_files(config, settings, o.degrade)
    with joined(assemble.device_of(config), config.run.timeout) as processes:
        _reconstruct(o, settings, model, config, processes)
    return 0


def _reconstruct(o: Namespace, settings: list[str], model: Model, config: Config, processes: Processes) -> None:
    sources = sources_of(o.images, o.data_root, config, o.degrade)
    simulated = simulation(config, model, o.data_root, {i: s.path.with_stem(s.name) for i, s in enumerate(sources)})
    files = Files(
        sources=sources, config=config, limits=o.range, out=o.out, degrade=o.degrade, keep=o.keep, form=f".{o.format}"
    )  # fmt: skip
    targets = files.targets(simulated)
    processes.numbers(0)  # nobody writes before all have looked
    o.out.mkdir(parents=True, exist_ok=True)
    for note in assemble.file_notes(config, o.data_root) + ([] if o.degrade else assumed(config, settings)):
        print(note)
    noise_check.warn_of_level(o.model, config.problem)
    given = noise_check.is_given(settings)

    def one(i: int) -> None:
        own = targets[i]
        if all(target.exists() for target in own):
            print(f"{printable(own[0])}: kept")
        elif o.degrade:
            _from_clean(files, i, own, simulated, model, config)
        else:
            _from_measured(files, i, own, simulated, model, config, given)

    for first in range(0, len(targets), processes.count):  # each rank one image, and what is said of them in order
        said = heard(one, first + processes.rank) if first + processes.rank < len(targets) else ("", "")
        for texts in processes.objects(said):
            _say(texts)


def heard(one: Callable[[int], None], i: int) -> tuple[str, str]:
    """Return what is printed while one image is reconstructed, and what of it is a warning. An error comes after it."""
    out, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            one(i)
    except BaseException:
        _say((out.getvalue(), errors.getvalue()))
        raise
    return out.getvalue(), errors.getvalue()


def _say(texts: tuple[str, str]) -> None:
    for text, stream in zip(texts, (sys.stdout, sys.stderr), strict=True):
        print(text, end="", file=stream, flush=True)


def _from_clean(
    files: Files, i: int, own: tuple[Path, ...], simulated: Simulation, model: Model, config: Config
) -> None:
    """Measure a clean image and reconstruct it."""
    picture = files.picture(i)
    clean = simulated.to_device(whole_blocks(picture.image, simulated.measuring.multiple)[None])
    y = simulated.measure(clean, (i,))
    shape = clean.shape[1:]
    solution = simulated(y, (i,), shape)
    x = simulated.seen_in(solution.x)
    shown = y if config.problem.measures_images else simulated.seen_in(simulated.as_image(y, (i,), shape))
    _write(own, [encode_like(picture, image[0]) for image in (x, shown)])
    quality = float(psnr(x, simulated.seen_in(clean)))
    print(f"{printable(own[0])}: PSNR {quality:.2f} dB, {summary(solution, model)}")


def _from_measured(
    files: Files, i: int, own: tuple[Path, ...], simulated: Simulation, model: Model, config: Config, given: bool
) -> None:
    """Reconstruct what was measured, at the noise level that is given or estimated. The parameters are all that a
    command knows of one file."""
    found, source = files.measurement(i, simulated), files.sources[i]
    y, told = found.y, list(found.told)
    mask_check.warn_of_mask(source.path, y, i, simulated)
    if not given:
        simulated, level = noise_check.at_estimated_level(simulated, model, config.problem, y, i)
        told.append(level)
    for line in told:
        print(f"{source}: {line}")
    if found.depth == 16 and (brightest := float(y.amax())) < DARK:
        few = f"its brightest pixel is {100 * brightest:.2g} % of white: of fewer bits in a file of 16, scale it"
        print(f"warning: {source}: {few}", file=sys.stderr)
    solution = simulated(y, (i,))
    if found.depth == 32 and (fault := brightness_fault(float(solution.x.amax()))):
        print(f"warning: {source}: {fault} (--range BLACK WHITE)", file=sys.stderr)
    _write(own, found.encode(solution.x))
    print(f"{printable(own[0])}: {summary(solution, model)}")
    if given or not model.regularizer.noise_nodes:
        noise_check.warn_of_noise(source.path, y, config.problem)


def _write(targets: tuple[Path, ...], contents: list[bytes]) -> None:
    for target, data in zip(targets, contents, strict=True):
        if not target.exists():
            write_atomically(target, data)
