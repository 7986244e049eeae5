"""Directions of rays, measured by a scanner: a list of angles in degrees."""

import math

import numpy as np

from datasets.arrays import ArrayError, read_array
from datasets.files import printable

MOST = 4096  # directions


def read_angles(spec: str) -> list[float]:
    """Read angles in degrees from an array FILE[:KEY], a list of real numbers; lists of MATLAB are rows or columns.
    Raises ArrayError."""
    values = read_array(spec)
    is_list = values.ndim == 1 or (values.ndim == 2 and 1 in values.shape)
    if not is_list or values.dtype.kind not in "uif" or not 0 < values.size <= MOST:
        what = f"{values.shape} {values.dtype}"
        raise ArrayError(f"{printable(spec)} must be a list of 1 to {MOST} angles in degrees, not {what}")
    return values.ravel().astype(np.float64).tolist()


def angle_notes(spec: str) -> list[str]:
    """Return what the user of a file of angles must know of it, one line each. Raises ArrayError."""
    angles = read_angles(spec)
    low, high = min(angles), max(angles)
    if not (len(angles) > 2 and high > low and max(abs(low), abs(high)) <= 2 * math.pi):
        return []
    return [f"angles {printable(spec)}: from {low:.4g} to {high:.4g} degrees; are they in radians (numpy.rad2deg)?"]
