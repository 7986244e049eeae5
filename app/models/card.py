"""What is known about a model: how it was made, and how well it reconstructs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from app.models.facts import require_kinds
from app.models.files import ModelError, find_model, load_model, read_facts
from app.settings.families import FoeOptions
from app.settings.options import Config
from app.settings.tasks import Deblur, Mri, Problem, Tomography


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """Means over an image set that was measured in one way. Errors are standard errors of the mean."""

    images: str
    count: int
    task: str
    noise_level: float
    kernel: str  # problem.kernel; empty where nothing is blurred
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


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the file of a model says about it."""

    name: str
    file: Path
    config: Config
    size: int  # numbers that were ever learned for it
    learned: int  # those of them that its own training moved
    facts: dict[str, Any]  # what the file says about its training
    assessments: tuple[Assessment, ...]

    @property
    def training_seconds(self) -> float | None:
        """Seconds of training, with those of the model that it began with; None where the file does not say."""
        seconds = self.facts.get("seconds")
        return None if seconds is None else seconds + self.facts.get("seconds_before", 0.0)


def read_card(spec: str) -> Card:
    """Read the card of any model; files that say less give a shorter card. Raises ModelError."""
    model, config = load_model(spec)
    file = find_model(spec)
    facts = read_facts(file)
    kinds = get_type_hints(Assessment)
    rows = [{k: v for k, v in row.items() if k in kinds} for row in facts.get("evaluations", [])]
    try:
        for row in rows:
            require_kinds(row, kinds)
    except ValueError as error:
        raise ModelError(f"{file}: {error}") from None
    return Card(
        name=file.parent.resolve().name if file.name == "model.safetensors" else file.stem, file=file, config=config,
        size=model.size, learned=model.learned, facts=facts,
        assessments=tuple(Assessment(**row) for row in rows),
    )  # fmt: skip


def blur_text(problem: Problem) -> str:
    """Return the name of the kernel that measures, such as gaussian:9:1.5; empty where nothing is blurred."""
    return problem.kernel if isinstance(problem, Deblur) else ""


def full_name(config: Config, noise_levels: list[float], blurs: list[str]) -> str:
    """Return the name of a shipped model: [adaptive-]REGULARIZER-TASK-grey|color-LEVEL, or transfer-TASK-...; mfoe is
    a foe of groups. LEVEL is the noise level on the scale of 8 bit, what a kernel is called, how much faster MRI is
    than the whole of k-space, or how many directions tomography has; `all` where there are several levels."""
    regularizer, task = config.regularizer, config.problem.task
    family = f"adaptive-{regularizer.name}" if regularizer.contrasts else regularizer.name
    if isinstance(regularizer, FoeOptions):
        family = family.replace("foe", "mfoe") if regularizer.group_size > 1 else family
        family += f"-{regularizer.potential}" * (regularizer.potential != "charbonnier")
    family = "transfer" if regularizer.learn != "all" else family
    level = f"{255 * noise_levels[0]:g}"
    if len(noise_levels) > 1:
        level = "all"
    elif isinstance(config.problem, Deblur):
        level = "-".join(dict.fromkeys(Path(k.partition(":")[0]).stem for k in blurs))
    elif isinstance(config.problem, Mri):
        level = f"{config.problem.acceleration:g}x"
    elif isinstance(config.problem, Tomography):
        level = f"{config.problem.angles}"
    return f"{family}-{task}-{'color' if config.data.color else 'grey'}-{level}"
