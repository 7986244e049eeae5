"""Masks that do not seem to be of a measurement: inverted, transposed, or with DC at another place.

The numbers at frequencies or pixels that were not measured are 0 in most files, and tell where the mask must be 0. The
certificate is about argmin h, whatever mask h assumes.
"""

import sys
from pathlib import Path

from torch import Tensor

from app.evaluation.simulation import Simulation
from app.problem.mri import MriOperator
from app.problem.tasks import MaskOperator
from datasets.files import printable


def warn_of_mask(path: Path, y: Tensor, image: int, simulated: Simulation) -> None:  # (1, ...)
    """Print one line on stderr where the mask that is assumed does not seem to be that of a measurement."""
    fault = ""
    match simulated.measuring(simulated.measuring.image_shape(y.shape[1:]), (image,)):
        case MriOperator(mask=mask):
            fault = fault_of_frequencies(y, mask)
        case MaskOperator(mask=mask):
            fault = fault_of_pixels(y, mask)
    if fault:
        print(f"warning: {printable(path)}: {fault}", file=sys.stderr)


def fault_of_frequencies(y: Tensor, mask: Tensor) -> str:  # (1, 2, [coils,] H, W), (1, 1, H, W)
    """Return what is wrong with the frequencies of a mask, "" where nothing is: there are numbers outside it and zeros
    within it. Either alone is usual, of frequencies that are left out here, or that a scanner never measures."""
    there, expected = (y != 0).flatten(1, -3).any(1)[0], mask[0, 0] != 0
    missing, left = int((expected & ~there).sum()), int((there & ~expected).sum())
    if not missing or not left:
        return ""
    return (
        f"{missing} frequencies of the mask are 0 in it, and {left} others are not; is the mask transposed, or its DC "
        f"not in the middle (numpy.fft.fftshift)?"
    )


def fault_of_pixels(y: Tensor, mask: Tensor) -> str:  # (1, C, H, W), (1, 1, H, W)
    """Return what is wrong with the pixels of a mask, "" where nothing is: those within it are alike, others not."""
    known = y[0][:, mask[0, 0] != 0]
    if bool((y != y[..., :1, :1]).any()) and bool((known == known[:, :1]).all()):
        return "all pixels of the mask are alike in it, and others are not; is the mask inverted (white: measured)?"
    return ""
