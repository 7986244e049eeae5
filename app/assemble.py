"""From a configuration to the objects it names."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from app.config import Config, ConfigError, override
from app.evaluate import Reconstructor
from app.lower import agd, lbfgs
from app.models import load_model
from app.physics import OperatorFactory, deblurring, denoising, inpainting
from app.upper import schedules
from app.upper.hypergradient import Solver
from app.upper.isgd import Isgd
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
    solvers = {"lbfgs": lbfgs.solve, "agd": agd.solve}
    return partial(solvers[config.lower.solver], max_iterations=config.lower.max_iterations)


def isgd(config: Config) -> Isgd:
    upper, steps = config.upper, config.run.steps
    step_size = {
        "constant": schedules.constant(upper.step_size),
        "polynomial": schedules.polynomial(upper.step_size, upper.step_decay),
        "one_cycle": schedules.one_cycle(upper.step_size, steps),
    }[upper.schedule]
    accuracy = schedules.polynomial(upper.accuracy, upper.accuracy_decay)
    return Isgd(lower_solver(config), step_size, accuracy, upper.relative_accuracy)


def optimizer(config: Config, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Plain or Adam-preconditioned steps; the schedule sets the step size before each."""
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    return kinds[config.upper.optimizer](parameters, lr=config.upper.step_size)


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
