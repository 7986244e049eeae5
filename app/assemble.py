"""From a configuration to the objects it names: operators, solver, method, reconstructor."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.files import fingerprint
from app.lower import agd, gd_polyak, lbfgs
from app.lower.energy import Solver
from app.lower.stationary import certified_or_stationary
from app.models.build import Model
from app.models.files import KERNEL, find_model, load_model, read_facts
from app.problem.blur_kernel import kernel_error
from app.problem.borders import with_border
from app.problem.losses import LOSSES, LossOf
from app.problem.mri import drawn_masks, given_maps, given_mask, mri
from app.problem.noise_levels import NoiseLevels
from app.problem.operators import Operators
from app.problem.tasks import (
    deblurring,
    deblurring_by_any,
    denoising,
    drawn,
    inpainting,
    inpainting_with,
    super_resolution,
    tomography,
)
from app.ranks import local_rank, processes_here
from app.settings import methods as options
from app.settings.fields import shown
from app.settings.options import Config, ConfigError
from app.settings.tasks import DRAWN, Deblur, Denoise, Inpaint, Mri, Problem, SuperResolution, Tomography
from app.settings.toml import override
from app.upper import direction, schedules
from app.upper.descent import Descent
from app.upper.method import Method
from app.upper.methods import hoag
from app.upper.methods.amigo import Amigo
from app.upper.methods.gd_polyak import GdPolyak
from app.upper.methods.hoag import Hoag
from app.upper.methods.isgd import Isgd
from app.upper.methods.jfb import Jfb
from app.upper.methods.maid import Maid
from app.upper.methods.meha import Meha
from app.upper.methods.stocbio import Stocbio
from app.upper.methods.unroll import Unroll
from datasets.angles import angle_notes, read_angles
from datasets.arrays import ArrayError, read_array
from datasets.blur_kernels import (
    LEVIN,
    antialias_kernel,
    gaussian_kernel,
    is_file,
    kernel_file,
    kernel_notes,
    levin_kernels,
    read_kernel,
)
from datasets.masks import masks_of

HOLD = 10  # steps before a step size that was found at the first of them decreases


def device_of(config: Config) -> torch.device:
    """Return the device of run.device, on which float32 then means float32: TF32 would spoil the certificates. Each
    process of several has a GPU of its own, which "cuda" means to it. Raises ConfigError where there is no such device.
    """
    torch.backends.cudnn.allow_tf32 = False
    name = config.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"run.device = {shown(name)}; allowed are auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or local_rank()) >= torch.cuda.device_count():
        raise ConfigError(
            f"run.device = {shown(name)}, but this machine has {torch.cuda.device_count()} CUDA devices for "
            f"{processes_here()} processes"
        )
    if device.index is not None and processes_here() > 1:
        raise ConfigError(
            f"run.device = {shown(name)} is one device for {processes_here()} processes: set cuda or auto"
        )
    return device


def dtype_of(config: Config) -> torch.dtype:
    """Return the floating-point format of run.precision."""
    return getattr(torch, config.run.precision)


def operators(
    config: Config, data_root: Path, training: bool = False, images: Mapping[int, Path] | None = None
) -> Operators:
    """Return the operators of a task. Raises KernelError and MaskError. Where problem.kernel is levin:all, training
    draws one of the kernels for every image; elsewhere they take turns. images: position -> file, which has the name of
    its mask."""
    problem, device, dtype = config.problem, device_of(config), dtype_of(config)
    match problem:
        case Denoise():
            return denoising(device)
        case Inpaint() if problem.mask:
            return inpainting_with(masks_of(problem.mask, images or {}), device, dtype)
        case Inpaint():
            return inpainting(problem.keep, config.run.seed, device, dtype)
        case Mri():
            return mri_operators(problem, config.run.seed, device, dtype)
        case Tomography():
            return tomography(angles_of(problem), device, dtype)
        case SuperResolution():
            kernel = antialias_kernel(problem.factor, problem.antialias)
            circular = super_resolution(problem.factor, kernel, device, dtype)
        case Deblur(kernel="levin:all"):
            kernel, choose = levin_kernels(data_root), lambda image: image % LEVIN
            choose = drawn(LEVIN, config.run.seed) if training else choose
            circular = deblurring_by_any(kernel, choose, device, dtype)
        case Deblur():
            kernel = true_kernel(problem, data_root)
            circular = deblurring(kernel, device, dtype)
        case _:
            raise AssertionError(f"no operators for {type(problem).__name__}")
    return with_border(problem.border, circular, (kernel.shape[-2], kernel.shape[-1]), device)


def mri_operators(problem: Mri, seed: int, device: torch.device, dtype: torch.dtype) -> Operators:
    """Return the operators of magnetic resonance imaging. Raises ArrayError and OperatorError."""
    if drawn := problem.mask in DRAWN:
        masks = drawn_masks(problem.mask, problem.acceleration, problem.centre_fraction, seed)
    else:
        masks = given_mask(_array("problem.mask", problem.mask), f"problem.mask = {problem.mask}")
    maps, phases = None, seed if problem.image == "complex" else None
    if problem.coil_maps:
        maps = given_maps(_array("problem.coil_maps", problem.coil_maps), f"problem.coil_maps = {problem.coil_maps}")
    return mri(masks, maps, phases=phases, one_mask=not drawn, device=device, dtype=dtype)


def _array(key: str, spec: str) -> np.ndarray:
    try:
        return read_array(spec)
    except ArrayError as error:
        raise ArrayError(f"{key}: {error}") from None


def noise_levels(config: Config) -> NoiseLevels:
    """Return the noise levels that a run learns from."""
    return NoiseLevels(*config.problem.levels, config.run.seed)


def loss(config: Config) -> LossOf:
    """Return the upper-level loss of data.loss."""
    found = LOSSES[config.data.loss]
    return found if config.data.loss == "squared" else partial(found, width=config.data.loss_width)


def angles_of(problem: Tomography) -> list[float]:
    """Return the directions of the rays in degrees. Raises ArrayError."""
    if problem.angle_file:
        return read_angles(problem.angle_file)
    return [problem.angular_range * n / problem.angles for n in range(problem.angles)]


def true_kernel(problem: Deblur, data_root: Path) -> Tensor:  # -> (h, w)
    """Read the kernel that measures. Raises KernelError."""
    if problem.gaussian:
        return gaussian_kernel(*problem.gaussian)
    return read_kernel(problem.kernel, data_root, problem.signed_kernel)


def file_notes(config: Config, data_root: Path) -> list[str]:
    """Return what the user of a file of a kernel or of angles must know of it, one line each. Raises KernelError and
    ArrayError."""
    match config.problem:
        case Deblur(kernel=kernel):
            return kernel_notes(kernel, data_root)
        case Tomography(angle_file=str(file)) if file:
            return angle_notes(file)
    return []


def true_kernels(problem: Deblur, data_root: Path) -> Callable[[int], Tensor]:
    """Return the map from an image to the kernel (h, w) that measures it outside training. Raises KernelError."""
    kernels = levin_kernels(data_root) if problem.kernel == "levin:all" else [true_kernel(problem, data_root)]
    return lambda image: kernels[image % len(kernels)]


def learned_kernel_error(config: Config, model: Model, data_root: Path) -> float | None:
    """Return ||k - k_true|| / ||k_true|| of a model that reconstructs with a learned kernel k, None of any other."""
    problem = config.problem
    if model.kernel is None or not isinstance(problem, Deblur) or not problem.learn_kernel:
        return None
    return kernel_error(model.kernel(), true_kernel(problem, data_root))


def lower_solver(config: Config) -> Solver:
    """Return the solver of lower.solver."""
    solvers = {"lbfgs": lbfgs.solve, "agd": agd.solve, "gd_polyak": gd_polyak.solve}
    return partial(solvers[config.lower.solver], max_iterations=config.lower.max_iterations)


def method(config: Config) -> Method[Any]:
    """Return the upper-level method of upper.algorithm."""
    upper, solve = config.upper, lower_solver(config)
    stationary = certified_or_stationary(solve)
    rates = schedules.polynomial(getattr(upper, "accuracy_decay", 0.0))
    drawn: dict[str, Any] = {}
    if isinstance(upper, options.StochasticOptions):
        drawn = {"batch_size": upper.batch_size, "descent": descent(upper, config)}
    elif isinstance(upper, options.FullBatchOptions):
        drawn = {"step_size": upper.step_size, "through_guide": upper.through_guide}

    def own(*names: str) -> dict[str, Any]:
        return drawn | {name: getattr(upper, name) for name in names}

    match upper:
        case options.IsgdOptions():
            proven = upper.relative_accuracy > 0 and upper.relative_error == "proven"
            solve = stationary if config.lower.uncertified else solve
            return Isgd(
                **own("accuracy", "relative_accuracy", "through_guide"), solve=solve, schedule=rates, proven=proven
            )
        case options.StocbioOptions():
            return Stocbio(**own("lower_steps", "series_terms"), solve=solve)
        case options.AmigoOptions():
            return Amigo(**own("lower_steps", "adjoint_steps"), solve=solve)
        case options.JfbOptions():
            return Jfb(**own("accuracy"), solve=solve, schedule=rates)
        case options.UnrollOptions():
            return Unroll(**own("iterations", "backward_steps"))
        case options.MehaOptions():
            return Meha(**own("c", "p", "gamma", "eta", "beta", "preconditioned"), solve=stationary)
        case options.MaidOptions():
            proven = upper.relative_error == "proven"
            return Maid(**own("accuracy", "eta", "memory", "barzilai_borwein"), solve=solve, proven=proven)
        case options.HoagOptions():
            return Hoag(**own("accuracy"), solve=solve, schedule=TOLERANCES[upper.tolerance])
        case options.GdPolyakOptions():
            return GdPolyak(**own("accuracy", "short_steps"), solve=solve, schedule=rates)
    raise AssertionError(f"no method for {type(upper).__name__}")


TOLERANCES = {
    "quadratic": schedules.polynomial(2),
    "cubic": schedules.polynomial(3),
    "exponential": schedules.exponential(hoag.EXPONENTIAL),
}


def descent(upper: options.StochasticOptions, config: Config) -> Descent:
    """Return how a stochastic method moves along its gradients."""
    directions = {
        "sgd": direction.plain, "momentum": direction.momentum, "adam": direction.adam,
        "adabelief": direction.adabelief,
    }  # fmt: skip
    hold = HOLD if upper.step_size == 0 else 1
    shapes: dict[str, Callable[[], schedules.Schedule]] = {
        "constant": schedules.constant,
        "polynomial": lambda: schedules.with_plateau(schedules.polynomial(upper.step_decay), hold),
        "logarithmic": lambda: schedules.with_plateau(schedules.logarithmic(), hold),
        "one_cycle": lambda: schedules.one_cycle(config.run.steps),
    }
    return Descent(
        direction=directions[upper.optimizer], schedule=shapes[upper.schedule](), step_size=upper.step_size,
        factor=upper.step_factor,
    )  # fmt: skip


def load(spec: str, settings: list[str]) -> tuple[Model, Config]:
    """Load a model and its configuration with the user's settings, on any device but in the format of its training.
    Raises ModelError, and ConfigError where a setting would change the regularizer, or a file changed."""
    model, trained = load_model(spec)
    config = override(trained, ["run.device=auto", *settings])
    if not any(setting.startswith(KERNEL) for setting in settings):
        _check_kernel(spec, config.problem)
    if config.regularizer != trained.regularizer or config.data.color != trained.data.color:
        raise ConfigError(f"the architecture and colour of {spec} are fixed; only the problem can be set")
    if config.problem.learns_kernel and model.kernel is None:
        raise ConfigError(f"{spec} holds no learned kernel: problem.learn_kernel is for training")
    return model.at(config.problem.level).to(device_of(config), dtype_of(config)), config


def _check_kernel(spec: str, problem: Problem) -> None:
    """Raise ConfigError where the user's file with the kernel of a model is not the one of its training."""
    if not isinstance(problem, Deblur) or not is_file(problem.kernel):
        return
    file, known = kernel_file(problem.kernel, Path()), read_facts(find_model(spec)).get(KERNEL, {})
    if file is not None and known and fingerprint(file) not in known.values():
        raise ConfigError(f"{file} changed since {spec} was trained with it: name it with --kernel to use it as it is")


def load_comparable(models: list[str], settings: list[str]) -> dict[str, tuple[Model, Config]]:
    """Load models by the names they were given, all of which reconstruct from the same measurements. Raises
    ConfigError where the measurements differ."""
    loaded = {model: load(model, settings) for model in models}
    kinds = {(_measurement(c.problem), c.data.color, c.run.seed) for _, c in loaded.values()}
    if len(kinds) > 1:
        raise ConfigError("these models were trained for different measurements: set the same task, noise level, ...")
    return loaded


def _measurement(problem: Problem) -> Problem:
    """The problem without what belongs to the reconstruction."""
    learned = ("learn_kernel", "hold_kernel", "learned_kernel_size", "initial_kernel_width")
    defaults = {key.name: key.default for key in fields(problem) if key.name in ("ridge", *learned)}
    return replace(problem, noise_level=problem.level, **defaults)
