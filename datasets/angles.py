"""Directions of rays, measured by a scanner: a list of angles in degrees."""

import numpy as np

from datasets.arrays import ArrayError, read_array
from datasets.files import printable

MOST = 4096  # directions


def read_angles(spec: str) -> list[float]:
    """Read angles in degrees from an array FILE[:KEY], a list of real numbers. Raises ArrayError."""
    values = read_array(spec)
    if values.ndim != 1 or values.dtype.kind not in "uif" or not 0 < len(values) <= MOST:
        what = f"{values.shape} {values.dtype}"
        raise ArrayError(f"{printable(spec)} must be a list of 1 to {MOST} angles in degrees, not {what}")
    return values.astype(np.float64).tolist()
