"""`reconstruct`."""

from pathlib import Path

from app import assemble
from app.evaluation.simulation import simulation
from app.lower.solution import NOT_CERTIFIED
from app.problem.quality import psnr
from app.settings.options import ConfigError
from app.settings.tasks import Deblur, Inpaint, SuperResolution
from app.settings.toml import override
from app.training.checkpoint import RunError
from datasets.image_sets import find_images
from datasets.images import read_image, write_image


def reconstruct(model: str, images: list[str], settings: list[str], data_root: Path, out: Path, degrade: bool) -> int:
    """Reconstruct image files, measured first where `degrade`. Raises ConfigError, RunError and ImageError."""
    loaded, config = assemble.load(model, settings)
    if isinstance(config.problem, Inpaint) and not degrade:
        raise ConfigError("which pixels of a measured image are missing is not known: inpainting needs --degrade")
    if isinstance(config.problem, Deblur) and config.problem.kernel == "levin:all" and not degrade:
        raise ConfigError("which kernel blurred a measured image is not known: name it with --kernel, as levin:1")
    if isinstance(config.problem, Deblur | SuperResolution) and not degrade and not config.problem.learns_kernel:
        config = override(config, ["problem.border=valid", *settings])  # no camera's image goes on at its other side
    color = config.data.color
    paths = [p for spec in images for p in find_images(spec, data_root, color).paths]
    targets = [out / f"{path.stem}.png" for path in paths]
    for target in targets:
        if target.exists() or targets.count(target) > 1:
            raise RunError(f"{target} would be overwritten: choose another --out, or rename the images")
    reconstruct = simulation(config, loaded, data_root)
    out.mkdir(parents=True, exist_ok=True)
    for i, (path, target) in enumerate(zip(paths, targets, strict=True)):
        clean = reconstruct.read(path, color) if degrade else None
        y = reconstruct.to_device(read_image(path, color)[None]) if clean is None else reconstruct.measure(clean, (i,))
        solution = reconstruct(y, (i,))
        x = reconstruct.seen_in(solution.x)
        write_image(target, x[0])
        quality = "" if clean is None else f"PSNR {float(psnr(x, reconstruct.seen_in(clean))):.2f} dB, "
        cost = f"{int(solution.iterations)} iterations" + ("" if solution.converged else " (accuracy not reached)")
        if solution.error_bound.isinf():
            cost = f"{int(solution.iterations)} iterations ({NOT_CERTIFIED})"
        print(f"{target}: {quality}||x - argmin h|| <= {float(solution.error_bound):.3g}, {cost}")
        if degrade:
            write_image(target.with_stem(f"{target.stem}_degraded"), y[0])
    return 0
