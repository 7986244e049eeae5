"""The finite or streaming sum of lower-level problems that an upper-level method samples from."""

from dataclasses import dataclass, replace

import torch

from app.evaluation.guide import completed
from app.lower.energy import Energy, Functional, Solver
from app.models.model import Model
from app.problem.blur_kernel import SemiBlind
from app.problem.losses import SquaredError
from app.problem.operators import OperatorFactory
from app.training.noise_levels import NoiseLevels
from app.upper.method import Batch
from datasets.patches import PatchBatch, Patches


@dataclass(frozen=True)
class TrainingProblem:
    model: Model
    patches: Patches
    operators: OperatorFactory  # that measure, and reconstruct where no kernel is learned
    noise_levels: NoiseLevels
    ridge: float
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    solve: Solver  # for what a guide reconstructs
    hold_kernel: bool = False

    def batch(self, step: int) -> tuple[Batch, PatchBatch]:
        """The mini-batch of a step, and the patches it was made of."""
        patches = self.patches.batch(step, self.batch_size)
        clean, noise = (t.to(self.device, self.dtype) for t in (patches.clean, patches.noise))
        operator, level = self.operators(clean.shape[1:], patches.images), self.noise_levels.at(step)
        y = operator.measure(clean, level * noise)
        regularizer, kernel = self.model.regularizer.at(level), self.model.kernel

        def energy_with(functional: Functional) -> Energy:
            present = operator if kernel is None else kernel.operator((clean.shape[2], clean.shape[3]))
            return Energy(present, functional, y, self.ridge)

        regularizer, first = completed(regularizer, energy_with, self.solve)

        def energy() -> Energy:
            at_theta = energy_with(regularizer.frozen())
            return at_theta if first is None else replace(at_theta, guess=first.x)

        learned = regularizer if kernel is None or self.hold_kernel else SemiBlind(regularizer, kernel, y)
        loss, factor = SquaredError(clean, self.noise_levels.weight(level)), self.noise_levels.relative(level)
        spent = 0 if first is None else int(first.iterations.sum())
        return Batch(learned, energy, loss, patches.images, spent, factor), patches
