"""Numeric arrays of files: FILE.npy, and FILE:KEY of .npz, HDF5 (.h5, .hdf5) and MATLAB (.mat, version 5 to 7).

KEY may be left out where a file holds one array. How large an array is stands in a header, which is read first; nothing
is ever unpickled. What is not a finite real or complex number is refused.
"""

import io
import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from datasets.files import LARGEST, home_expanded, in_short, printable, read_file
from datasets.matlab import read_mat

HDF5 = (".h5", ".hdf5")
KEYED = (".npz", ".mat", *HDF5)  # files of arrays with names
ARRAYS = (".npy", *KEYED)


class ArrayError(ValueError):
    """An array is missing, unreadable or of the wrong kind; the message names its file."""


def find_array(spec: str) -> tuple[Path, str]:
    """Split FILE[:KEY], of which both may hold colons: the longest FILE that exists, or that numpy.savez made of this
    name. Raises ArrayError where there is none."""
    if not spec:
        raise ArrayError("the name of a file is empty")
    parts = spec.split(":")
    for n in range(len(parts), 0, -1):
        for end in ("", ".npz"):
            file = home_expanded(":".join(parts[:n]) + end)
            if os.path.exists(file):  # unlike Path.exists, also of names that no file can have
                return file, ":".join(parts[n:])
    raise ArrayError(f"there is no file {printable(spec)}")


def array_file(spec: str) -> Path:
    """Return the file of FILE[:KEY]. Raises ArrayError."""
    return find_array(spec)[0]


def is_array(file: Path) -> bool:
    """Tell whether a file is one of arrays, by its name."""
    return file.suffix.lower() in ARRAYS


def read_array(spec: str, largest: int = LARGEST) -> np.ndarray:
    """Return the finite real or complex numbers of FILE[:KEY] as they are stored. largest: bytes of an array. Raises
    ArrayError."""
    file, key = find_array(spec)
    try:
        values = _values(file, key, largest)
    except ArrayError as error:
        raise ArrayError(f"{printable(spec)}: {error}") from None
    except Exception as error:  # numpy, zipfile and h5py raise many kinds on damaged files
        raise ArrayError(f"cannot read an array from {printable(spec)}: {in_short(error)}") from None
    if values.dtype.kind not in "buifc":
        raise ArrayError(f"{printable(spec)} holds no array of numbers, but {values.shape} {values.dtype}")
    if values.size == 0:
        raise ArrayError(f"{printable(spec)}: its array {values.shape} is empty")
    if not np.isfinite(values).all():
        raise ArrayError(f"{printable(spec)} holds NaN or infinite values")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def read_npy(data: bytes, largest: int = LARGEST) -> np.ndarray:
    """Return the array of a .npy file. Raises ValueError where it is cut short; nothing is ever unpickled."""
    stream = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format is not read")
    shape, _, dtype = readers[version](stream)
    if math.prod(shape) * dtype.itemsize > len(data):  # before so much memory is asked for
        raise ValueError(f"it is cut short: its header tells of {shape} numbers")
    _limit(math.prod(shape) * dtype.itemsize, largest)
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def _values(file: Path, key: str, largest: int) -> np.ndarray:
    """Read an array as it is. Raises ArrayError without the name of the file, and what libraries raise."""
    suffix = file.suffix.lower()
    if suffix not in ARRAYS:
        raise ArrayError(f"arrays are read from {', '.join(ARRAYS)}")
    if suffix not in KEYED and key:
        raise ArrayError(f"{suffix} files hold one array, without a name ({printable(key)})")
    if suffix in HDF5:
        return _hdf5(file, key, largest)
    data = read_file(file)
    if suffix == ".npy":
        return read_npy(data, largest)
    if suffix == ".npz":
        return read_npy(_member(data, key, largest), largest)
    arrays = read_mat(data, largest)
    if (values := arrays[name := _chosen(key, arrays)]) is None:
        raise ArrayError(f"{printable(name)} is no array of numbers")
    return values


def _member(data: bytes, key: str, largest: int) -> bytes:
    """Return a .npy file that an archive holds."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        name = _chosen(key, sizes)
        _limit(sizes[name], largest)  # before anything is inflated
        with archive.open(f"{name}.npy") as file:
            return file.read(largest)


def _hdf5(file: Path, key: str, largest: int) -> np.ndarray:
    """Read a dataset of an HDF5 file; complex numbers are pairs (r, i)."""
    try:
        import h5py
    except ImportError:
        raise ArrayError("HDF5 files need the package h5py: pip install h5py") from None
    if not file.is_file():
        raise ArrayError("it is not a regular file")
    found: dict[str, h5py.Dataset] = {}
    with h5py.File(file, "r") as archive:
        archive.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
        numbers = [name for name, item in found.items() if item.dtype.kind in "buifc"]
        dataset = found[_chosen(key.strip("/"), found if key else numbers)]
        if dataset.is_virtual or dataset.external:
            raise ArrayError("arrays whose numbers are in other files are not read")
        if dataset.dtype.kind not in "buifc":
            raise ArrayError(f"{printable(key)} is no array of numbers, but of {dataset.dtype}")
        _limit(dataset.nbytes, largest)
        return dataset[()]


def _chosen(key: str, names: Collection[str]) -> str:
    """Return the key, or the only name where there is none. Raises ArrayError."""
    if not key and len(names) == 1:
        return next(iter(names))
    if key not in names:
        wanted = f"there is no array {printable(key)}" if key else "which array"
        raise ArrayError(f"{wanted}: it holds {printable(', '.join(names)) or 'none'}, write FILE:KEY")
    return key


def _limit(size: int, largest: int) -> None:
    if size > largest:
        raise ArrayError(f"an array of {size} bytes is larger than the {largest} that are read")
