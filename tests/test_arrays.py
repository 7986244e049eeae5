"""Files of numeric arrays: what is read is what was written; everything else is refused in one line with its name."""

import io
import os
import sys
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io

from app.commands.errors import USER_ERRORS
from datasets.arrays import ArrayError, read_array

REAL = np.random.default_rng(0).random((5, 3))
COMPLEX = REAL + 1j * REAL[::-1]


def _hdf5(file, **arrays) -> None:
    with h5py.File(file, "w") as archive:
        for name, values in arrays.items():
            archive[name] = values


@pytest.mark.parametrize("values", [REAL, REAL.astype(np.float32), COMPLEX, COMPLEX.astype(np.complex64), REAL > 0.5,
                                    np.asfortranarray(REAL), (9 * REAL).astype(">i2")])  # fmt: skip
@pytest.mark.parametrize(
    ("name", "write", "key"),
    [
        ("a.npy", np.save, ""),
        ("a.npz", lambda f, v: np.savez_compressed(f, a=v), ""),
        ("b.npz", lambda f, v: np.savez(f, **{"x:y": v, "b": REAL}), ":x:y"),
        ("a.h5", lambda f, v: _hdf5(f, a=v), ""),
        ("a.HDF5", lambda f, v: _hdf5(f, **{"group/a": v, "b": REAL, "text": "of no array"}), ":group/a"),
        ("one.h5", lambda f, v: _hdf5(f, a=v, header="of no array"), ""),
        ("a.mat", lambda f, v: scipy.io.savemat(f, {"a": v.astype(v.dtype.newbyteorder("="))}), ":a"),
    ],
)
def test_arrays_come_back_as_they_were_written(tmp_path, name, write, key, values):
    write(tmp_path / name, values)
    found = read_array(f"{tmp_path / name}{key}")
    np.testing.assert_array_equal(found, values)
    assert found.dtype.isnative and (found.dtype.kind == values.dtype.kind or name == "a.mat")


def _bomb(file) -> None:
    """Write 4 GB of zeros, deflated."""
    with h5py.File(file, "w") as archive:
        archive.create_dataset("k", (2**16, 2**16), dtype="u1", chunks=(256, 256), compression="gzip", fillvalue=0)


def _cut(file, data: bytes) -> None:
    file.write_bytes(data[: len(data) // 2])


def _bytes(save, *arguments, **arrays) -> bytes:
    stream = io.BytesIO()
    save(stream, *arguments, **arrays)
    return stream.getvalue()


BAD = [
    ("nan.npy", lambda f: np.save(f, REAL * np.nan), "", "NaN or infinite"),
    ("inf.npz", lambda f: np.savez(f, COMPLEX / 0), "", "NaN or infinite"),
    ("nan.h5", lambda f: _hdf5(f, a=REAL * np.nan), "", "NaN or infinite"),
    ("object.npy", lambda f: np.save(f, np.array([{}], dtype=object)), "", "Object arrays"),
    ("object.npz", lambda f: np.savez(f, a=np.array([{}], dtype=object)), ":a", "Object arrays"),
    ("text.npy", lambda f: np.save(f, np.array(["a"])), "", "no array of numbers"),
    ("record.npy", lambda f: np.save(f, np.zeros(2, dtype=[("a", float)])), "", "no array of numbers"),
    ("text.h5", lambda f: _hdf5(f, a="text"), ":a", "no array of numbers"),
    ("text.mat", lambda f: scipy.io.savemat(f, {"a": "text"}), ":a", "no array of numbers"),
    ("empty.npy", lambda f: np.save(f, REAL[:0]), "", "is empty"),
    ("keys.h5", lambda f: _hdf5(f, kspace=REAL, mask=REAL), ":image", "no array image: it holds kspace, mask"),
    ("keys.npz", lambda f: np.savez(f, kspace=REAL, mask=REAL), "", "which array: it holds kspace, mask"),
    ("cut.npz", lambda f: _cut(f, _bytes(np.savez, a=REAL)), ":a", "not a zip file"),
    ("cut.npy", lambda f: _cut(f, _bytes(np.save, np.zeros(99))), "", "cut short"),
    ("cut.h5", lambda f: (_hdf5(f, a=np.zeros(9999)), _cut(f, f.read_bytes())), ":a", "cut.h5"),
    ("no.h5", lambda f: f.write_bytes(b"no HDF5"), ":a", "cannot read"),
    ("bomb.h5", _bomb, "", "4294967296 bytes"),
    ("key.npy", lambda f: np.save(f, REAL), ":a", "without a name"),
    ("pipe.h5", os.mkfifo, ":a", "not a regular file"),
    ("word.txt", lambda f: f.write_text("1 2 3"), "", "arrays are read from"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(("name", "write", "key", "message"), BAD, ids=[name for name, *_ in BAD])
def test_what_is_no_array_of_numbers_is_refused_in_one_line(tmp_path, name, write, key, message):
    write(tmp_path / name)
    with pytest.raises(ArrayError) as refused:
        read_array(f"{tmp_path / name}{key}")
    assert message in str(refused.value) and name in str(refused.value) and "\n" not in str(refused.value)
    assert ArrayError in USER_ERRORS


def test_the_size_in_a_header_is_read_before_the_numbers(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((99, 99)))
    data = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = archive.infolist()[0].file_size
    with pytest.raises(ArrayError, match=f"array of {size} bytes"):
        read_array(str(tmp_path / "a.npz"), 2**12)


def test_hdf5_without_h5py_is_refused_with_what_to_install(tmp_path, monkeypatch):
    _hdf5(tmp_path / "a.h5", a=REAL)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ArrayError, match="pip install h5py"):
        read_array(f"{tmp_path}/a.h5:a")
