"""The finite or streaming sum of lower-level problems that an upper-level method samples from."""

from dataclasses import dataclass

import torch

from app.losses import SquaredError
from app.lower.energy import Energy
from app.physics import OperatorFactory
from app.upper.method import Batch
from datasets.patches import PatchBatch, Patches
from regularizers import Regularizer


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

    def batch(self, step: int) -> tuple[Batch, PatchBatch]:
        """The mini-batch of a step, and the patches it was made of."""
        patches = self.patches.batch(step, self.batch_size)
        clean, noise = (t.to(self.device, self.dtype) for t in (patches.clean, patches.noise))
        operator = self.operators(clean.shape[1:], patches.images)
        y = operator.measure(clean, self.noise_level * noise)

        def energy() -> Energy:
            return Energy(operator, self.regularizer.frozen(), y, self.ridge)

        return Batch(self.regularizer, energy, SquaredError(clean), patches.images), patches
