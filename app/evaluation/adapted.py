"""A shipped model on a problem that it was not learned for: its noise level is told, or its channels are taken apart.

    F(x) = (a / c^2) R(c x),  ridge' = a ridge    (regularizers/rescaled.py)

If h is a negative log-posterior, R and the ridge are sigma^2 times those of the prior: at another noise level sigma',
a = (sigma' / sigma)^2. A denoiser can also see brighter or darker images, as it learned them: c = sigma / sigma'. A
regularizer of grey images takes the channels of others one by one. The certificate is about the energy with F.
"""

import math

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor, nn

from app.evaluation.reconstructor import reconstruct
from app.lower.solution import LowerSolution
from app.models.files import load_regularizer
from regularizers import Channelwise, Regularizer, Rescaled


class AdaptedReconstructor(nn.Module):
    """x = argmin 1/2 ||A x - y||^2 + F(x) + a ridge/2 ||x||^2, clipped to [0, 1]: model(y, physics) -> x."""

    def __init__(self, regularizer: Regularizer, ridge: float, accuracy: float = 0.1) -> None:
        super().__init__()
        self.regularizer, self.ridge, self.accuracy = regularizer, ridge, accuracy

    def forward(self, y: Tensor, physics: LinearPhysics, **kwargs: object) -> Tensor:  # (B, ...) -> (B, C, H, W)
        """Return the reconstructions. Raises OperatorError."""
        return self.solution(y, physics).x.clamp(0, 1)

    def solution(self, y: Tensor, physics: LinearPhysics) -> LowerSolution:  # (B, ...)
        """Return the reconstructions with their certificates, not clipped. Raises OperatorError."""
        return reconstruct(self.regularizer, y, physics, ridge=self.ridge, accuracy=self.accuracy)


def adapted(
    name: str, *, amplitude: float = 1.0, contrast: float = 1.0, channels: int | None = None
) -> AdaptedReconstructor:
    """Return a shipped model, or a file or run of one, adapted. channels: those that a grey model takes one by one;
    None: its own. Raises ModelError, and RegularizerError of an adaptive model."""
    regularizer, ridge, _ = load_regularizer(name, None)
    found = Rescaled(regularizer)
    with torch.no_grad():
        found.log_amplitude.fill_(math.log(amplitude))
        found.log_contrast.fill_(math.log(contrast))
    return AdaptedReconstructor(found if channels is None else Channelwise(found, channels), amplitude * ridge).eval()
