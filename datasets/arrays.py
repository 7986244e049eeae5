"""Arrays in files of the user: FILE.npy, or FILE.npz:KEY."""

import io
import zipfile
from pathlib import Path

import numpy as np

from datasets.decode import read_npy
from datasets.files import home_expanded, in_short, printable, read_file

LARGEST = 2**31  # bytes of an array


class ArrayError(ValueError):
    """An array is missing or unusable; the message names its file."""


def array_file(spec: str) -> Path:
    """Return the file that holds an array."""
    return _split(spec)[0]


def read_array(spec: str) -> np.ndarray:
    """Read FILE.npy or FILE.npz:KEY; KEY may be left out where the file holds one array. Nothing is ever unpickled.
    Raises ArrayError."""
    file, key = _split(spec)
    try:
        data = read_file(file)
        return read_npy(_member(data, key) if file.suffix.lower() == ".npz" else data)
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        raise ArrayError(f"cannot read an array from {printable(spec)}: {in_short(error)}") from None


def _split(spec: str) -> tuple[Path, str]:
    """FILE and KEY of FILE[:KEY]; a file may have a colon in its name."""
    file, colon, key = spec.rpartition(":")
    return (home_expanded(file), key) if colon and file.lower().endswith(".npz") else (home_expanded(spec), "")


def _member(data: bytes, key: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        key = next(iter(sizes)) if not key and len(sizes) == 1 else key
        if key not in sizes:
            raise ArrayError(f"write FILE:KEY, where KEY is one of {printable(', '.join(sizes)) or 'none'}")
        if sizes[key] > LARGEST:  # before anything is inflated
            raise ArrayError(f"{key} has {sizes[key]} bytes; at most {LARGEST} are read")
        with archive.open(f"{key}.npy") as file:
            return file.read(LARGEST)
