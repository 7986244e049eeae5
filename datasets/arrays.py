"""Arrays in files: FILE.npy or FILE.npz:KEY (no KEY where there is one array). Nothing is ever unpickled."""

import numpy as np

from datasets.blur_kernels import _member, _split
from datasets.decode import read_npy
from datasets.files import in_short, printable, read_file


class ArrayError(ValueError):
    """An array is missing or unreadable; the message names its file."""


def read_array(spec: str) -> np.ndarray:
    """Read the numbers of FILE.npy or FILE.npz:KEY as they are. Raises ArrayError."""
    try:
        file, key = _split(spec)
        data = read_file(file)
        array = read_npy(_member(data, key) if file.suffix.lower() == ".npz" else data)
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        raise ArrayError(f"cannot read an array from {printable(spec)}: {in_short(error)}") from None
    if array.dtype.kind not in "buifc":
        raise ArrayError(f"{printable(spec)} holds {array.dtype}, not numbers")
    return array
