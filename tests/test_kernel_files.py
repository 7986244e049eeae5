"""Files that blur kernels come in: read as the field keeps them, or refused in one line."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import tifffile
import torch
from PIL import Image

from datasets.blur_kernels import KernelError, kernel_file, read_kernel
from datasets.matlab import read_mat

KERNEL = np.random.default_rng(0).random((5, 3))
EXPECTED = torch.from_numpy(KERNEL / KERNEL.sum())


@pytest.mark.parametrize(
    ("name", "write", "key"),
    [
        ("k.mat", lambda f: scipy.io.savemat(f, {"kernel": KERNEL}), ""),
        ("K.MAT", lambda f: scipy.io.savemat(f, {"a": KERNEL, "b": 1}, appendmat=False, do_compression=True), ":a"),
        (
            "counts.mat",
            lambda f: scipy.io.savemat(f, {"x": "text", "a": np.round(KERNEL * 65535).astype(np.uint16)}),
            ":a",
        ),
        ("wide.mat", lambda f: scipy.io.savemat(f, {"a name": KERNEL.astype(np.float32)}), ":a name"),
        ("k.npy", lambda f: np.save(f, KERNEL), ""),
        ("K.NPY", lambda f: f.write_bytes(_npy(np.asfortranarray(KERNEL))), ""),
        ("only.npz", lambda f: np.savez(f, KERNEL), ""),
        ("small.npz", lambda f: np.savez_compressed(f, **{"a:b": KERNEL}), ":a:b"),
        ("UP.NPZ", lambda f: np.savez(f.open("wb"), kernel=KERNEL, other=KERNEL[:1]), ":kernel"),
        ("made.NPZ", lambda f: np.savez(f, kernel=KERNEL), ":kernel"),
        ("psf.tif", lambda f: tifffile.imwrite(f, KERNEL), ""),
        ("psf.TIFF", lambda f: tifffile.imwrite(f, KERNEL.astype(np.float32)), ""),
        ("run:3/k.npz", lambda f: np.savez(f, kernel=KERNEL), ":kernel"),
        ("levin.npz", lambda f: np.savez(f, kernel=KERNEL.astype(np.float16)), ""),
    ],
)
def test_kernels_are_read_as_the_field_keeps_them(tmp_path, name, write, key):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    write(file)
    torch.testing.assert_close(read_kernel(f"{file}{key}", tmp_path), EXPECTED, atol=1e-4, rtol=1e-3)


def test_a_file_is_known_by_its_whole_name(tmp_path, monkeypatch):
    """A kernel of the user is fingerprinted also where its name begins like that of a computed one."""
    monkeypatch.chdir(tmp_path)
    np.save("gaussian_like.npy", KERNEL)
    assert kernel_file("gaussian_like.npy", tmp_path) == Path("gaussian_like.npy")
    assert kernel_file("gaussian:9:1.5", tmp_path) is None


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _mat() -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"k": KERNEL})
    return file.getvalue()


def _bomb() -> bytes:
    """A small file whose one array is 1 GB of zeros, as its header tells."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("k.npy", "w") as member:
        member.write(_npy(np.zeros((4, 4))))
    return file.getvalue().replace((128 + 128).to_bytes(4, "little"), (1 << 30).to_bytes(4, "little"))


BAD = {
    "text": np.array([["a"]]), "bytes": np.array([[b"a"]]), "empty": np.zeros((0, 5)), "complex": KERNEL + 0j,
    "overflow": np.full((5, 5), 1e308), "nan": np.full((3, 3), np.nan), "infinite": np.full((3, 3), np.inf),
    "negative": KERNEL - 0.5, "zero": np.zeros((3, 3)), "line": KERNEL[0], "batch": KERNEL[None, None], "date":
    np.array([["2026-01-01"]], dtype="datetime64[D]"), "record": np.zeros((2, 2), dtype=[("a", float)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_arrays_that_are_no_kernel_are_refused_and_never_cast(tmp_path, kind, suffix):
    file = tmp_path / f"k{suffix}"
    np.savez(file, BAD[kind]) if suffix == ".npz" else np.save(file, BAD[kind])
    assert "k.np" in _refusal(str(file), tmp_path)


@pytest.mark.parametrize(
    ("name", "write", "key", "message"),
    [
        ("k.npz", lambda f: np.savez(f, k=np.array([{}], dtype=object)), ":k", "Object arrays"),
        ("k.npy", lambda f: np.save(f, np.array([{}], dtype=object)), "", "Object arrays"),
        ("k.npz", lambda f: np.savez(f, a=KERNEL, b=KERNEL), "", "it holds a, b"),
        ("k.npz", lambda f: np.savez(f, a=KERNEL), ":b", "no array b"),
        ("k.npz", lambda f: f.write_bytes(b"PK no archive"), ":k", "not a zip file"),
        ("k.npz", lambda f: f.write_bytes(_bomb()), ":k", "1073741824 bytes"),
        (
            "k.mat",
            lambda f: scipy.io.savemat(f, {"k": np.array([KERNEL, "text"], dtype=object)}),
            ":k",
            "no array of numbers",
        ),
        ("k.mat", lambda f: scipy.io.savemat(f, {"k": scipy.sparse.eye(3).tocsc()}), ":k", "no array of numbers"),
        ("k.mat", lambda f: f.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400)), "", "-v7"),
        ("k.mat", lambda f: scipy.io.savemat(f, {"k": KERNEL}, format="4"), "", "-v7"),
        ("k.mat", lambda f: scipy.io.savemat(f, {"k": KERNEL + 1j}), "", "2-D array of real numbers"),
        ("k.mat", lambda f: scipy.io.savemat(f, {"k": "text"}), "", "no array of numbers"),
        ("k.mat", lambda f: f.write_bytes(_mat()[:-20]), "", "cut short"),
        ("k.mat", lambda f: f.write_bytes(b"no matlab"), "", "cannot read a kernel"),
        ("k.npy", lambda f: np.save(f, KERNEL), ":key", "without a name"),
        ("k.png", lambda f: Image.new("LA", (3, 3)).save(f), "", "transparency"),
        ("k.png", lambda f: f.write_bytes(b""), "", "not a readable image"),
        ("k.npy", lambda f: os.symlink("/dev/zero", f), "", "not a regular file"),
        ("k.npz", lambda f: os.mkfifo(f), ":k", "not a regular file"),
        ("k.npz", lambda f: f.mkdir(), ":k", "not a regular file"),
        ("k\n.npz", lambda f: f.write_bytes(b""), ":k", "not a zip file"),
        ("none", lambda f: None, ".npz:k", "no kernel file"),
    ],
)
def test_files_that_hold_no_kernel_are_refused_in_one_line(tmp_path, name, write, key, message):
    write(tmp_path / name)
    assert message in _refusal(f"{tmp_path / name}{key}", tmp_path)


def test_what_is_deflated_has_a_limit():
    file = io.BytesIO()
    scipy.io.savemat(file, {"k": np.zeros((50, 50))}, do_compression=True)
    assert read_mat(file.getvalue(), 2**15)["k"].shape == (50, 50)
    with pytest.raises(ValueError, match="more than 4096 bytes"):
        read_mat(file.getvalue(), 2**12)


@pytest.mark.parametrize("spec", ["/dev/zero", "~nosuchuser/k.npz:k", "k\0.npz:k", "levin:9", "x" * 300, ""])
def test_names_that_are_no_kernel_files_are_refused(tmp_path, spec):
    _refusal(spec, tmp_path)


def _refusal(spec: str, data_root) -> str:
    with pytest.raises(KernelError) as refused:
        read_kernel(spec, data_root)
    assert "\n" not in str(refused.value)
    return str(refused.value)
