"""The finite or streaming sum of lower-level problems that an upper-level method samples from."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.losses import SquaredError
from app.lower.energy import Energy
from app.physics import OperatorFactory
from app.upper.hypergradient import Hypergradient
from app.upper.isgd import Batch
from datasets.patches import PatchBatch, Patches
from regularizers import Regularizer


@dataclass
class WarmStarts:
    """Last x and q of every image of a finite sum, or nothing for fresh patches.

    Fresh noise must not meet a warm start: the solver would average the noise of many visits away, and the training
    error would no longer be that of one measurement.
    """

    x: dict[int, Tensor] = field(default_factory=dict)
    q: dict[int, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        return {f"warm.{kind}.{i}": t for kind in ("x", "q") for i, t in getattr(self, kind).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.x.clear()
        self.q.clear()
        for name, tensor in tensors.items():
            if name.startswith("warm."):
                _, kind, i = name.split(".")
                getattr(self, kind)[int(i)] = tensor


@dataclass(frozen=True)
class TrainingProblem:
    regularizer: Regularizer
    patches: Patches
    operators: OperatorFactory
    noise_level: float
    ridge: float
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    warm: WarmStarts = field(default_factory=WarmStarts)

    def batch(self, step: int) -> tuple[Batch, PatchBatch]:
        """The mini-batch of a step, and the patches it was made of."""
        patches = self.patches.batch(step, self.batch_size)
        clean, noise = (t.to(self.device, self.dtype) for t in (patches.clean, patches.noise))
        operator = self.operators(clean.shape[1:], patches.images)
        y = operator.measure(clean, self.noise_level * noise)
        energy = Energy(operator, self.regularizer.frozen(), y, self.ridge)
        start = energy.backprojection
        adjoint_start = None
        if self.patches.fixed:
            rows = list(zip(patches.images, start, strict=True))
            start = torch.stack([self.warm.x.get(i, cold).to(cold) for i, cold in rows])
            adjoint_start = torch.stack([self.warm.q.get(i, torch.zeros_like(cold)).to(cold) for i, cold in rows])
        return Batch(energy, SquaredError(clean), start, adjoint_start), patches

    def remember(self, images: tuple[int, ...], z: Hypergradient) -> None:
        if self.patches.fixed:
            for position, i in enumerate(images):
                self.warm.x[i] = z.lower.x[position].cpu()
                self.warm.q[i] = z.linear.q[position].cpu()
