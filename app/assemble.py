"""From a configuration to the objects it names."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.evaluation.reconstructor import Reconstructor
from app.lower import agd, gd_polyak, lbfgs
from app.lower.energy import Solver
from app.lower.stationary import certified_or_stationary
from app.models.model import Model, load_model
from app.problem.blur_kernel import kernel_error
from app.problem.operators import (
    OperatorFactory,
    deblurring,
    deblurring_by_any,
    denoising,
    drawn,
    inpainting,
    super_resolution,
)
from app.settings.options import Config, ConfigError, Problem
from app.settings.toml import override
from app.upper import direction, schedules
from app.upper.descent import Descent
from app.upper.method import Method
from app.upper.methods.amigo import Amigo
from app.upper.methods.gd_polyak import GdPolyak
from app.upper.methods.hoag import EXPONENTIAL, Hoag
from app.upper.methods.isgd import Isgd
from app.upper.methods.jfb import Jfb
from app.upper.methods.maid import Maid
from app.upper.methods.meha import Meha
from app.upper.methods.stocbio import Stocbio
from app.upper.methods.unroll import Unroll
from datasets.blur_kernels import LEVIN, gaussian_kernel, levin_kernels, read_kernel

HOLD = 10  # steps before a step size that was found at the first of them decreases


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


def operator_factory(config: Config, data_root: Path, training: bool = False) -> OperatorFactory:
    """Of levin:all, training draws the kernel of an image; elsewhere the kernels take turns."""
    problem, device, dtype = config.problem, device_of(config), dtype_of(config)
    if problem.task == "denoise":
        return denoising(device)
    if problem.task == "inpaint":
        return inpainting(problem.keep, config.run.seed, device, dtype)
    if problem.task == "superres":
        return super_resolution(problem.factor, problem.antialias, device, dtype)
    if problem.kernel == "levin:all":
        choose = drawn(LEVIN, config.run.seed) if training else _in_turn
        return deblurring_by_any(levin_kernels(data_root), choose, device, dtype)
    return deblurring(true_kernel(problem, data_root), device, dtype)


def _in_turn(image: int) -> int:
    """Which of levin:all measures an image outside training."""
    return image % LEVIN


def true_kernel(problem: Problem, data_root: Path) -> Tensor:  # -> (h, w)
    """The kernel that measures."""
    if problem.kernel == "gaussian":
        return gaussian_kernel(problem.kernel_size, problem.kernel_width)
    return read_kernel(problem.kernel, data_root)


def true_kernels(problem: Problem, data_root: Path) -> Callable[[int], Tensor]:
    """Image -> the kernel (h, w) that measures it outside training."""
    if problem.kernel == "levin:all":
        kernels = levin_kernels(data_root)
        return lambda image: kernels[_in_turn(image)]
    kernel = true_kernel(problem, data_root)
    return lambda image: kernel


def learned_kernel_error(config: Config, model: Model, data_root: Path) -> float | None:
    """||k - k_true|| / ||k_true|| of a model that reconstructs with a learned kernel."""
    if model.kernel is None or not config.problem.learn_kernel:
        return None
    return kernel_error(model.kernel(), true_kernel(config.problem, data_root))


def lower_solver(config: Config) -> Solver:
    solvers = {"lbfgs": lbfgs.solve, "agd": agd.solve, "gd_polyak": gd_polyak.solve}
    return partial(solvers[config.lower.solver], max_iterations=config.lower.max_iterations)


def method(config: Config) -> Method[Any]:
    """The upper-level method of upper.algorithm."""
    upper, solve = config.upper, lower_solver(config)
    stochastic: dict[str, Any] = {"batch_size": upper.batch_size, "descent": descent(config)}
    full_batch: dict[str, Any] = {"solve": solve, "step_size": upper.step_size, "accuracy": upper.accuracy}
    methods: dict[str, Callable[[], Method[Any]]] = {
        "isgd": lambda: Isgd(
            **stochastic, solve=certified_or_stationary(solve) if config.lower.uncertified else solve,
            schedule=_accuracies(config), accuracy=upper.accuracy, relative_accuracy=upper.relative_accuracy,
            proven=upper.relative_error == "proven",
        ),
        "stocbio": lambda: Stocbio(**stochastic, solve=solve, **asdict(config.stocbio)),
        "amigo": lambda: Amigo(**stochastic, solve=solve, **asdict(config.amigo)),
        "jfb": lambda: Jfb(**stochastic, solve=solve, schedule=_accuracies(config), accuracy=upper.accuracy),
        "unroll": lambda: Unroll(**stochastic, **asdict(config.unroll)),
        "meha": lambda: Meha(**stochastic, solve=certified_or_stationary(solve), **asdict(config.meha)),
        "maid": lambda: Maid(
            **full_batch, eta=config.maid.eta, memory=config.maid.memory, barzilai_borwein=config.maid.barzilai_borwein,
            proven=config.maid.error == "proven",
        ),
        "hoag": lambda: Hoag(**full_batch, schedule=_tolerances(config)),
        "gd_polyak": lambda: GdPolyak(**full_batch, schedule=_accuracies(config), **asdict(config.gd_polyak)),
    }  # fmt: skip
    return methods[upper.algorithm]()


def descent(config: Config) -> Descent:
    upper = config.upper
    directions = {
        "sgd": direction.plain, "momentum": direction.momentum, "adam": direction.adam,
        "adabelief": direction.adabelief,
    }  # fmt: skip
    hold = HOLD if upper.step_size == 0 else 1
    shapes = {
        "constant": schedules.constant(),
        "polynomial": schedules.with_plateau(schedules.polynomial(upper.step_decay), hold),
        "logarithmic": schedules.with_plateau(schedules.logarithmic(), hold),
        "one_cycle": schedules.one_cycle(config.run.steps),
    }
    return Descent(directions[upper.optimizer], shapes[upper.schedule], upper.step_size)


def _accuracies(config: Config) -> schedules.Schedule:
    if config.upper.accuracy_schedule == "logarithmic":
        return schedules.logarithmic()
    return schedules.polynomial(config.upper.accuracy_decay)


def _tolerances(config: Config) -> schedules.Schedule:
    shapes = {
        "quadratic": schedules.polynomial(2), "cubic": schedules.polynomial(3),
        "exponential": schedules.exponential(EXPONENTIAL),
    }  # fmt: skip
    return shapes[config.hoag.tolerance]


def load(spec: str, settings: list[str]) -> tuple[Model, Config]:
    """A model and its configuration with the user's settings, on any device but the precision of its training."""
    model, trained = load_model(spec)
    config = override(trained, ["run.device=auto", *settings])
    if config.regularizer != trained.regularizer or config.data.color != trained.data.color:
        raise ConfigError(f"the architecture and colour of {spec} are fixed; only the problem can be set")
    if config.problem.learn_kernel and model.kernel is None:
        raise ConfigError(f"{spec} holds no learned kernel: problem.learn_kernel is for training")
    return model.at(config.problem.noise_level).to(device_of(config), dtype_of(config)), config


def load_comparable(models: list[str], settings: list[str]) -> dict[str, tuple[Model, Config]]:
    """Models by the name they were given, all reconstructing from the same measurements. Raises ConfigError."""
    loaded = {model: load(model, settings) for model in models}
    kinds = {(_measurement(c.problem), c.data.color, c.run.seed) for _, c in loaded.values()}
    if len(kinds) > 1:
        raise ConfigError("these models were trained for different measurements: set the same task, noise level, ...")
    return loaded


def _measurement(problem: Problem) -> Problem:
    """Without what belongs to the reconstruction."""
    return replace(
        problem,
        ridge=0.0,
        noise_low=0.0,
        noise_high=0.0,
        learn_kernel=False,
        hold_kernel=False,
        learned_kernel_size=1,
        initial_kernel_width=1.0,
    )


def reconstructor(config: Config, model: Model, data_root: Path) -> Reconstructor:
    """Measures with the true kernel; reconstructs with the learned one, unless problem.learn_kernel is off."""
    problem, kernel = config.problem, model.kernel
    measuring = operators = operator_factory(config, data_root)
    if kernel is not None and problem.learn_kernel:
        operators = lambda shape, images: kernel.operator((shape[1], shape[2]))  # noqa: E731
    return Reconstructor(
        model.regularizer,
        measuring,
        operators,
        certified_or_stationary(lower_solver(config)),
        config.lower.final_accuracy,
        problem.noise_level,
        problem.ridge,
        config.run.seed,
        device_of(config),
        dtype_of(config),
        problem.enlargement,
    )
