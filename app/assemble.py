"""From a configuration to the objects it names."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from app.config import override
from app.evaluate import Reconstructor
from app.lower import agd, gd_polyak, lbfgs
from app.models import load_model
from app.options import Config, ConfigError
from app.physics import OperatorFactory, deblurring, denoising, inpainting
from app.upper import direction, hoag, schedules
from app.upper.descent import Descent
from app.upper.gd_polyak import GdPolyak
from app.upper.hoag import Hoag
from app.upper.hypergradient import Solver
from app.upper.isgd import Isgd
from app.upper.maid import Maid
from app.upper.method import Method
from datasets.kernels import gaussian_kernel, read_kernel
from regularizers import Regularizer


def device_of(config: Config) -> torch.device:
    """The device of run.device. On CUDA, float32 then means float32: TF32 would spoil the certificates."""
    torch.backends.cudnn.allow_tf32 = False
    name = config.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"run.device = {name!r}; allowed are auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"run.device = {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def dtype_of(config: Config) -> torch.dtype:
    return getattr(torch, config.run.precision)


def operator_factory(config: Config, data_root: Path) -> OperatorFactory:
    problem, device, dtype = config.problem, device_of(config), dtype_of(config)
    if problem.task == "denoise":
        return denoising(device)
    if problem.task == "inpaint":
        return inpainting(problem.keep, config.run.seed, device, dtype)
    if problem.kernel == "gaussian":
        kernel = gaussian_kernel(problem.kernel_size, problem.kernel_width)
    else:
        kernel = read_kernel(problem.kernel, data_root)
    return deblurring(kernel, device, dtype)


def lower_solver(config: Config) -> Solver:
    solvers = {"lbfgs": lbfgs.solve, "agd": agd.solve, "gd_polyak": gd_polyak.solve}
    return partial(solvers[config.lower.solver], max_iterations=config.lower.max_iterations)


def method(config: Config) -> Method:
    """The upper-level method of upper.algorithm."""
    upper, solve = config.upper, lower_solver(config)
    methods: dict[str, Callable[[], Method]] = {
        "isgd": lambda: Isgd(solve, descent(config), _accuracies(config), upper.accuracy, upper.relative_accuracy),
        "maid": lambda: Maid(
            solve, upper.step_size, upper.accuracy, config.maid.eta, config.maid.memory, config.maid.barzilai_borwein,
            config.maid.error == "proven",
        ),
        "hoag": lambda: Hoag(solve, _tolerances(config), upper.step_size, upper.accuracy),
        "gd_polyak": lambda: GdPolyak(
            solve, _accuracies(config), upper.step_size, upper.accuracy, config.gd_polyak.short_steps
        ),
    }  # fmt: skip
    return methods[upper.algorithm]()


def descent(config: Config) -> Descent:
    upper = config.upper
    directions = {
        "sgd": direction.plain, "momentum": direction.momentum, "adam": direction.adam,
        "adabelief": direction.adabelief,
    }  # fmt: skip
    shapes = {
        "constant": schedules.constant(),
        "polynomial": schedules.polynomial(upper.step_decay),
        "logarithmic": schedules.logarithmic(),
        "one_cycle": schedules.one_cycle(config.run.steps),
    }
    return Descent(directions[upper.optimizer], shapes[upper.schedule], upper.step_size)


def _accuracies(config: Config) -> schedules.Schedule:
    if config.upper.accuracy_schedule == "logarithmic":
        return schedules.logarithmic()
    return schedules.polynomial(config.upper.accuracy_decay)


def _tolerances(config: Config) -> schedules.Schedule:
    shapes = {"quadratic": schedules.polynomial(2), "cubic": schedules.polynomial(3)}
    return shapes.get(config.hoag.tolerance) or hoag.exponential()


def load(model: str, settings: list[str]) -> tuple[Regularizer, Config]:
    """A model and its configuration with the user's settings, on any device but the precision of its training."""
    regularizer, trained = load_model(model)
    config = override(trained, ["run.device=auto", *settings])
    if config.regularizer != trained.regularizer or config.data.color != trained.data.color:
        raise ConfigError(f"the architecture and colour of {model} are fixed; only the problem can be set")
    return regularizer.to(device_of(config), dtype_of(config)), config


def load_comparable(models: list[str], settings: list[str]) -> dict[str, tuple[Regularizer, Config]]:
    """Models by the name they were given, all reconstructing from the same measurements. Raises ConfigError."""
    loaded = {model: load(model, settings) for model in models}
    # The ridge belongs to the reconstruction, the rest of the problem to the measurement.
    kinds = {(replace(c.problem, ridge=0.0), c.data.color, c.run.seed) for _, c in loaded.values()}
    if len(kinds) > 1:
        raise ConfigError("these models were trained for different measurements: set the same task, noise level, ...")
    return loaded


def reconstructor(config: Config, regularizer: Regularizer, data_root: Path) -> Reconstructor:
    problem = config.problem
    return Reconstructor(
        regularizer.frozen(),
        operator_factory(config, data_root),
        lower_solver(config),
        config.lower.final_accuracy,
        problem.noise_level,
        problem.ridge,
        config.run.seed,
        device_of(config),
        dtype_of(config),
    )
