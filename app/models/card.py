"""What is known about a model: how it was made, and how well it reconstructs."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from app.models.model import find_model, load_model, read_facts
from app.settings.options import Config, Problem


@dataclass(frozen=True)
class Assessment:
    """Means over an image set that was measured in one way. Errors are standard errors of the mean."""

    images: str
    count: int
    task: str
    noise_level: float
    kernel: str  # problem.kernel, and gaussian:SIZE:WIDTH; empty where nothing is blurred
    psnr: float
    psnr_error: float
    ssim: float
    ssim_error: float
    psnr_degraded: float
    certified: int  # images with ||x - argmin h|| <= accuracy
    accuracy: float
    mu: float  # mu <= d2h/dx2 <= L, on every image
    largest: float
    iterations: float  # gradients of h per image
    seconds: float  # per image
    hardware: str


@dataclass(frozen=True)
class Card:
    name: str
    file: Path
    config: Config
    parameters: int
    facts: dict[str, Any]  # what the file says about its training
    assessments: tuple[Assessment, ...]


def read_card(spec: str) -> Card:
    """Of any model; files that say less give a shorter card. Raises ModelError."""
    model, config = load_model(spec)
    file = find_model(spec)
    facts = read_facts(file)
    known = {f.name for f in fields(Assessment)}
    rows = [{k: v for k, v in row.items() if k in known} for row in facts.get("evaluations", [])]
    name = file.parent.resolve().name if file.name == "model.safetensors" else file.stem
    parameters = sum(p.numel() for p in model.parameters())
    return Card(name, file, config, parameters, facts, tuple(Assessment(**row) for row in rows))


def kernel(problem: Problem) -> str:
    if problem.task != "deblur":
        return ""
    size, width = problem.kernel_size, problem.kernel_width
    return f"gaussian:{size}:{width:g}" if problem.kernel == "gaussian" else problem.kernel


def full_name(config: Config, noise_levels: list[float], kernels: list[str]) -> str:
    """[adaptive-]REGULARIZER-TASK-grey|color-LEVEL. LEVEL: of the noise on the scale of 8 bit, or what a kernel is
    called; `all` where there are several levels."""
    regularizer, task = config.regularizer, config.problem.task
    family = f"adaptive-{regularizer.name}" if regularizer.contrast_channels else regularizer.name
    if regularizer.name == "foe" and regularizer.potential != "charbonnier":
        family += f"-{regularizer.potential}"
    level = f"{255 * noise_levels[0]:g}"
    if len(noise_levels) > 1:
        level = "all"
    elif task == "deblur":
        level = "-".join(dict.fromkeys(Path(k.partition(":")[0]).stem for k in kernels))
    return f"{family}-{task}-{'color' if config.data.color else 'grey'}-{level}"
