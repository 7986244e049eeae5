"""The compiled kernel of a CPU: foe.cpp, compiled at first use for this machine and for one filter size, type of number
and potential, and kept in a cache.

Only a C++ compiler is needed ($CXX, or c++). Without one there is a warning, and the caller computes with torch alone.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from regularizers.foe.compiled.bank import Bank
from regularizers.foe.spline import KNOTS

SOURCE = Path(__file__).with_name("foe.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fopenmp")
REALS = {torch.float32: "float", torch.float64: "double"}
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
        contrasts = None if bank.contrasts is None else bank.contrasts.contiguous()
        function(
            *head, ctypes.byref(_Shape(*x.shape)), *map(_address, (*parameters, *shape, contrasts)),
            ctypes.c_double(bank.scale), ctypes.c_int(len(bank.filters)), *map(_address, (x, *others)),
        )  # fmt: skip


def _address(t: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if t is None else t.data_ptr())


@cache
def compiled_kernel(dtype: torch.dtype, filter_size: int, potential: str) -> CpuKernel | None:
    """Return the kernel, compiled if it is not in the cache; None, after a warning, where it cannot be compiled."""
    compiler = os.environ.get("CXX") or "c++"
    knots = ",".join(map(repr, KNOTS)) if potential == "spline" else ""
    values = {"REAL": REALS[dtype], "SIZE": filter_size, "POTENTIAL": potential.capitalize(), "KNOTS": knots}
    defines = tuple(f"-D{name}={value}" for name, value in values.items())
    try:
        library = ctypes.CDLL(str(_compiled(compiler, defines)))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            f"no compiled kernel, so fields of experts take about twice as long on this CPU: {compiler} failed: "
            f"{reason.strip().splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    library.foe_memory.restype = ctypes.c_long
    library.foe_apply.restype = library.foe_mixed.restype = None
    return CpuKernel(library)


def _compiled(compiler: str, defines: tuple[str, ...]) -> Path:
    """Return the path of the shared library. Its name holds all it depends on, the processor included (-march=native).

    Raises OSError where there is no compiler.
    """
    key = "\n".join((SOURCE.read_text(), compiler, *FLAGS, *defines, _processor()))
    path = _cache_folder() / f"foe-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        if shutil.which(compiler) is None:
            raise OSError("no such program")
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [compiler, *FLAGS, *defines, str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            made.replace(path)  # at once: another process may be doing the same
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _cache_folder() -> Path:
    """Return a folder that nobody else writes to: what lies there is run. Raises OSError where there is none."""
    user = getattr(os, "getuid", int)()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (base / "bilevel-regularizers", Path(tempfile.gettempdir()) / f"bilevel-regularizers-{user}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and folder.stat().st_uid == user:
            return folder
    raise OSError("no folder for the compiled kernel is writable")
