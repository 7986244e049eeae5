"""Methods of others by their names (`--baselines`): which can run here, what is loaded, and what is tuned first."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

from torch import Tensor, nn
from tqdm import tqdm

from app.assemble import true_kernels
from app.evaluation import classical, networks
from app.evaluation.evaluate import Baseline
from app.evaluation.simulation import Simulation
from app.models.build import count
from app.problem.operators import LinearOperator
from app.problem.quality import psnr
from app.settings.options import Config, ConfigError
from app.settings.tasks import Deblur
from datasets.held_out import images_to_learn_from
from datasets.image_sets import ImageSet
from datasets.images import ImageError, read_image

TASKS = {name: (task,) for name, task in classical.TASKS.items()}
TASKS |= {name: network.tasks for name, network in networks.NETWORKS.items()}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A baseline with its parameters set.

    parameters: how many numbers were learned; None of a classical method.
    """

    label: str
    about: str
    method: Baseline
    parameters: int | None = None


def label(name: str) -> str:
    """Return what a baseline is called in tables: a model may have its name."""
    return f"{name} (baseline)"


def _check(names: tuple[str, ...], config: Config) -> None:
    problem = config.problem
    for name in names:
        if problem.task not in TASKS[name]:
            known = ", ".join(n for n, tasks in TASKS.items() if problem.task in tasks) or "none"
            there = f"is there to {', '.join(TASKS[name])}; to {problem.task} there is {known}"
            raise ConfigError(f"--baselines {name} {there}")
        package = classical.PACKAGES.get(name)
        if package and find_spec(package) is None:
            install = f"pip install {package.replace('pywt', 'PyWavelets')} (the extra {name!r} of pyproject.toml)"
            raise ConfigError(f"--baselines {name} needs a package that is not installed: {install}")
    if names and problem.level == 0:
        raise ConfigError("--baselines are set by the noise level, which is 0 here")
    for name in names:
        network = networks.NETWORKS.get(name)
        if network and (fault := network.fault(3 if config.data.color else 1, problem.level)):
            raise ConfigError(f"--baselines {name} {fault}")


def load(names: tuple[str, ...], config: Config, weights: Path | None) -> dict[str, nn.Module]:
    """Check that these baselines can run here, before anything long begins, and return the networks among them. Raises
    ConfigError where one cannot, and where weights are named and nothing reads them."""
    _check(names, config)
    chosen = [name for name in names if name in networks.NETWORKS]
    if weights is not None and not chosen:
        raise ConfigError(f"--weights is for --baselines of networks: {', '.join(networks.NETWORKS)}")
    channels = 3 if config.data.color else 1
    return {name: networks.load(name, channels, config.problem.level, weights) for name in chosen}


def prepare(
    name: str, loaded: dict[str, nn.Module], config: Config, measured: Simulation, data_root: Path, quiet: bool
) -> Prepared:
    """Return the baseline of this name, tuned on held-out images where it has a parameter. loaded: what `load` found.
    measured: measures the images that it will see, and draws the noise of those to tune on, too."""
    if name in loaded:
        return _network(name, loaded[name], config, measured)
    return _classical(name, config, measured, data_root, quiet)


def _classical(name: str, config: Config, measured: Simulation, data_root: Path, quiet: bool) -> Prepared:
    sigma = config.problem.level
    if name in ("tv", "wiener"):
        parameter, limits = "weight", (0.1 * sigma, 2 * sigma)
        method = lambda y, i, value: classical.total_variation(y, value)  # noqa: E731
        if isinstance(config.problem, Deblur):
            kernels = true_kernels(config.problem, data_root)
            parameter, limits = "balance", (1e-3 * sigma, 1e3 * sigma)
            method = lambda y, i, value: classical.wiener(y, kernels(i), value)  # noqa: E731
        found = _images_to_tune_on(data_root, config.data.color)
        value = _tune(method, found, config.data.color, measured, limits, "" if quiet else f"tuning {name}")
        about = f"{classical.ABOUT[name]}, {parameter} {value:.3g} tuned on {found.name}"
        return Prepared(label=label(name), about=about, method=lambda y, i: method(y, i, value))
    methods = {"wavelet": classical.wavelet, "nlm": classical.nonlocal_means, "bm3d": classical.bm3d}
    return Prepared(label=label(name), about=classical.ABOUT[name], method=lambda y, i: methods[name](y, sigma))


def _network(name: str, model: nn.Module, config: Config, measured: Simulation) -> Prepared:
    """Return a network on the device of the models, its reconstruction where it was measured."""
    apply = networks.applied(name, model.to(measured.device), config.problem.level)

    def method(y: Tensor, image: int) -> Tensor:  # (1, ...) -> (1, C, h, w)
        operator = measured.measuring(measured.measuring.image_shape(y.shape[1:]), (image,))
        assert isinstance(operator, LinearOperator)  # of one image
        return measured.seen_in(apply(y, operator))

    about = f"{networks.NETWORKS[name].about}, by deepinv"
    return Prepared(label=label(name), about=about, method=method, parameters=count(model))


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

        return classical.golden_section(quality, *limits)
