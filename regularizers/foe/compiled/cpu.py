"""The compiled kernel of a CPU: foe.cpp, compiled at first use for this machine and for one filter size, type of number
and potential, and kept in a cache.

Only a C++ compiler is needed ($CXX, which may have options, or c++). Without one there is a warning, and the caller
computes with torch alone. A library ends in its own SHA-256: one that a crash cut short is compiled anew, never mapped.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from regularizers.foe.compiled.bank import Bank
from regularizers.foe.spline import KNOTS

SOURCE = Path(__file__).with_name("foe.cpp")
SOURCES = SOURCE, SOURCE.with_name("groups.h")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno")
REALS = {torch.float32: "float", torch.float64: "double"}
RESULTS = {
    "foe_memory": ctypes.c_long, "foe_apply": None, "foe_mixed": None, "foe_bands": ctypes.c_int,
    "foe_experts": ctypes.c_int,
}  # fmt: skip
DIGEST = 32  # bytes of a SHA-256
GRADIENT, REMEMBER, SUMMARY, PRODUCT, PRODUCT_AT_X = range(5)  # foe.cpp's modes

# Curvatures that a Hessian may keep for its products. Where they are more, each product computes them again (1.3 times
# slower).
REMEMBERED_BYTES = 1 << 30


class _Shape(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("batch", "channels", "height", "width"))


@dataclass(frozen=True)
class CpuKernel:
    """Calls the compiled functions; the formulas are those of `choice.CompiledKernel`."""

    library: ctypes.CDLL

    def gradient(self, bank: Bank, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        g = torch.zeros_like(x, memory_format=torch.contiguous_format)
        self._apply(GRADIENT, bank, x.contiguous(), None, g, None)
        return g

    def hessian(self, bank: Bank, x: Tensor) -> Callable[[Tensor], Tensor]:  # (B, C, H, W)
        x = x.contiguous()
        length = self.library.foe_memory(ctypes.byref(_Shape(*x.shape)), len(bank.filters))
        mode, curvature = PRODUCT_AT_X, None
        if length * x.element_size() <= REMEMBERED_BYTES:
            mode, curvature = PRODUCT, x.new_empty(length)
            self._apply(REMEMBER, bank, x, None, None, curvature)

        def product(v: Tensor) -> Tensor:
            g = torch.zeros_like(x)
            self._apply(mode, bank, x, v.contiguous(), g, curvature)
            return g

        return product

    def summary(self, bank: Bank, x: Tensor) -> tuple[Tensor, Tensor]:  # (B, C, H, W) -> (B, K), (B, C, H, W)
        x, experts = x.contiguous(), len(bank.filters)
        diagonal = torch.zeros_like(x)
        bands = self.library.foe_bands(ctypes.byref(_Shape(*x.shape)))
        sums = x.new_zeros(len(x), bands, self.library.foe_experts(experts))
        self._apply(SUMMARY, bank, x, None, diagonal, sums)
        return sums.sum(1)[:, :experts], diagonal

    def mixed(self, bank: Bank, x: Tensor, q: Tensor) -> tuple[Tensor, ...]:  # 2 x (B, C, H, W)
        x, q = x.contiguous(), q.contiguous()
        sizes = [t.numel() for t in bank.parameters]
        sums = x.new_zeros(sum(sizes), dtype=torch.float64)
        self._call(self.library.foe_mixed, (), bank, x, q, sums)
        parts = sums.to(x.dtype).split(sizes)
        return tuple(part.view(t.shape) for part, t in zip(parts, bank.parameters, strict=True))

    def _apply(self, mode: int, bank: Bank, x: Tensor, *others: Tensor | None) -> None:
        self._call(self.library.foe_apply, (ctypes.c_int(mode),), bank, x, *others)

    def _call(self, function, head: tuple, bank: Bank, x: Tensor, *others: Tensor | None) -> None:
        parameters = [t.contiguous() for t in bank.parameters]  # alive during the call
        shape = (None,) * (4 - len(parameters))
        planes = [None if t is None else t.contiguous() for t in (bank.contrasts, bank.masks)]
        function(
            *head, ctypes.byref(_Shape(*x.shape)), *map(_address, (*parameters, *shape, *planes)),
            ctypes.c_double(bank.scale), ctypes.c_int(len(bank.filters)), *map(_address, (x, *others)),
        )  # fmt: skip


def _address(t: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if t is None else t.data_ptr())


@cache
def compiled_kernel(dtype: torch.dtype, filter_size: int, potential: str, group_size: int = 1) -> CpuKernel | None:
    """Return the kernel, compiled if it is not in the cache; None, after a warning, where it cannot be compiled."""
    compiler = os.environ.get("CXX", "").strip() or "c++"
    knots = ",".join(map(repr, KNOTS)) if potential == "spline" else ""
    name = "".join(map(str.capitalize, potential.split("_")))  # mcp_linf is McpLinf
    values = {"REAL": REALS[dtype], "SIZE": filter_size, "POTENTIAL": name, "GROUP": group_size, "KNOTS": knots}
    defines = tuple(f"-D{name}={value}" for name, value in values.items())
    try:
        return CpuKernel(_library(shlex.split(compiler), defines))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:  # ValueError: quotes of $CXX without an end
        reason = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            f"no compiled kernel, so fields of experts take about twice as long on this CPU: {compiler} failed: "
            f"{(reason.strip() or 'no word').splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _library(compiler: list[str], defines: tuple[str, ...]) -> ctypes.CDLL:
    """Return the library, out of the cache where it lies there whole. The name of its file holds all it depends on, the
    processor included (-march=native).

    Raises OSError where there is no compiler, or what it makes is not the library.
    """
    key = "\n".join((*(source.read_text() for source in SOURCES), *compiler, *FLAGS, *defines, _processor()))
    folder = _cache_folder()
    if "-DREAL=double" in defines:  # apart from what users look for: only certificates need it
        folder /= "double"
        folder.mkdir(exist_ok=True, mode=0o700)
    path = folder / f"foe-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not _is_whole(path):
        if shutil.which(compiler[0]) is None:
            raise OSError("no such program")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / path.name
            command = [*compiler, *FLAGS, *defines, str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
            _seal(made)
            _opened(made)  # what does not load is not kept
            made.replace(path)  # at once: another process may be doing the same
    return _opened(path)


def _opened(path: Path) -> ctypes.CDLL:
    """Load a library and declare what its functions return. Raises OSError where it is not ours."""
    library = ctypes.CDLL(str(path))
    try:
        for name, result in RESULTS.items():
            getattr(library, name).restype = result
    except AttributeError as error:
        raise OSError(str(error)) from None
    return library


def _seal(path: Path) -> None:
    """Append the SHA-256 of a file, behind what a loader reads, and flush it to disk."""
    with path.open("r+b") as file:
        file.write(hashlib.sha256(file.read()).digest())
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o700)


def _is_whole(path: Path) -> bool:
    """Whether a file ends in the SHA-256 of the rest, and nobody else can have written it."""
    try:
        if not _is_own(path, stat.S_ISREG):
            return False
        data = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]


def _is_own(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether a path is a file or folder of ours, no link, that nobody else may write to. Raises OSError."""
    status = path.lstat()
    return kind(status.st_mode) and status.st_uid == _user() and not status.st_mode & 0o022


def _user() -> int:
    return getattr(os, "getuid", int)()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _cache_folder() -> Path:
    """Return a folder that nobody else writes to: what lies there is run. Raises OSError where there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # stays ~ for users without a home
    for folder in (cache / "bilevel-regularizers", Path(tempfile.gettempdir()) / f"bilevel-regularizers-{_user()}"):
        if not folder.is_absolute():
            continue
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if _is_own(folder, stat.S_ISDIR) and os.access(folder, os.W_OK):
                return folder
    raise OSError("no folder for the compiled kernel is writable by you alone")
