"""Baselines of `evaluate`: which ones, and what is to be tuned first."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

from torch import Tensor
from tqdm import tqdm

from app.evaluation import classical as baselines
from app.evaluation.evaluate import Baseline
from app.evaluation.simulation import Simulation
from app.problem.quality import psnr
from app.settings.options import Config, ConfigError
from datasets.held_out import images_to_learn_from
from datasets.image_sets import ImageSet
from datasets.images import ImageError, read_image

Kernels = Callable[[int], Tensor]  # image -> the kernel (h, w) that blurred it


@dataclass(frozen=True)
class Prepared:
    """A baseline with its parameters set."""

    label: str
    about: str
    method: Baseline


def label(name: str) -> str:
    """Return what a baseline is called in tables: a model may have its name."""
    return f"{name} (baseline)"


def check(names: tuple[str, ...], config: Config) -> None:
    """Check that baselines can run here, before anything long begins. Raises ConfigError."""
    problem = config.problem
    for name in names:
        if baselines.TASKS[name] != problem.task:
            known = ", ".join(n for n, task in baselines.TASKS.items() if task == problem.task) or "none"
            there = f"is there to {baselines.TASKS[name]}; to {problem.task} there is {known}"
            raise ConfigError(f"--baselines {name} {there}")
        package = baselines.PACKAGES.get(name)
        if package and find_spec(package) is None:
            install = f"pip install {package.replace('pywt', 'PyWavelets')} (the extra {name!r} of pyproject.toml)"
            raise ConfigError(f"--baselines {name} needs a package that is not installed: {install}")
    if names and problem.level == 0:
        raise ConfigError("--baselines are set by the noise level, which is 0 here")


def prepare(
    name: str, config: Config, measured: Simulation, kernels: Kernels | None, data_root: Path, quiet: bool
) -> Prepared:
    """Return a baseline with its parameters set. measured: draws the noise of the images to tune on, too."""
    sigma = config.problem.level
    if name in ("tv", "wiener"):
        parameter, limits = "weight", (0.1 * sigma, 2 * sigma)
        method = lambda y, i, value: baselines.total_variation(y, value)  # noqa: E731
        if name == "wiener":
            assert kernels is not None
            parameter, limits = "balance", (1e-3 * sigma, 1e3 * sigma)
            method = lambda y, i, value: baselines.wiener(y, kernels(i), value)  # noqa: E731
        found = _images_to_tune_on(data_root, config.data.color)
        value = _tune(method, found, config.data.color, measured, limits, "" if quiet else f"tuning {name}")
        about = f"{baselines.ABOUT[name]}, {parameter} {value:.3g} tuned on {found.name}"
        return Prepared(label(name), about, lambda y, i: method(y, i, value))
    methods = {"wavelet": baselines.wavelet, "nlm": baselines.nonlocal_means, "bm3d": baselines.bm3d}
    return Prepared(label(name), baselines.ABOUT[name], lambda y, i: methods[name](y, sigma))


def _images_to_tune_on(data_root: Path, color: bool) -> ImageSet:
    try:
        return images_to_learn_from("tuning", "bsds500:val32", data_root, color)
    except ImageError:
        return images_to_learn_from("tuning", "builtin:train", data_root, color)


def _tune(
    method: Callable[[Tensor, int, float], Tensor],
    images: ImageSet,
    color: bool,
    measured: Simulation,
    limits: tuple[float, float],
    title: str,
) -> float:
    """The parameter of the best mean PSNR over whole images."""
    clean = [measured.to_device(read_image(path, color)[None]) for path in images.paths]
    y = [measured.measure(image, (i,)) for i, image in enumerate(clean)]
    clean = [measured.seen_in(image) for image in clean]
    with tqdm(desc=title, unit="value", disable=not title, dynamic_ncols=True) as bar:

        def quality(value: float) -> float:
            bar.update()
            return fmean(float(psnr(method(a, i, value), b)) for i, (a, b) in enumerate(zip(y, clean, strict=True)))

        return baselines.golden_section(quality, *limits)
