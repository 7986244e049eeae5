"""The CUDA kernels against the same formulas in torch: on a GPU, or else in Triton's interpreter.

The interpreter must be chosen before Triton is imported, so without a GPU these tests run in a process of their own.
"""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regularizers.foe.compiled import cuda
from regularizers.foe.filter_bank import analysis, synthesis
from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.foe.groups import NORMS, SIZES, GroupPotential, group_potential
from regularizers.foe.spline import KNOTS, spline
from tests.test_kernels import everything, field, in_torch, modulated

triton = pytest.importorskip("triton", minversion="3.4")

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU and not INTERPRETED else "cpu"
executed = pytest.mark.skipif(not (GPU or INTERPRETED), reason="no GPU: runs in a process of its own, interpreted")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}

# Potential, boundary, channels, experts, filter size, batch and image, type: with and without a border between tiles in
# either direction, and between blocks of experts. The interpreter takes about a second for a tile of one block.
CASES = [
    ("charbonnier", "valid", 1, 9, 3, (1, 3, 35), torch.float32),
    ("mcp", "circular", 3, 3, 3, (1, 4, 5), torch.float64),
    ("huber", "reflect", 3, 3, 3, (1, 5, 4), torch.float32),
    ("spline", "reflect", 1, 3, 3, (1, 5, 6), torch.float64),
    ("weak_spline", "circular", 1, 3, 3, (1, 9, 4), torch.float32),
]
if DEVICE == "cuda":
    # In float32 a few of so many responses would be on the other side of a kink.
    CASES += [
        ("charbonnier", "reflect", channels, experts, size, (3, 130, 217), torch.float32)
        for channels, experts, size in [(1, 48, 7), (3, 20, 5), (3, 33, 9), (1, 7, 15)]
    ]
    CASES += [
        ("huber", "valid", 1, 2, 11, (1, 12, 13), torch.float64),
        ("log", "circular", 1, 3, 3, (1, 6, 9), torch.float64),
    ]
    CASES += [(potential, "circular", 1, 48, 7, (3, 130, 217), torch.float64) for potential in ("huber", "mcp")]


# The same of groups, whose norm and size follow the kind, and last whether there are contrasts and masks: with and
# without groups that fill a block.
GROUPS = [
    ("mcp", "linf", 4, "valid", 1, 8, 3, (1, 3, 5), torch.float32, True),
    ("mcp", "l2", 4, "circular", 2, 4, 3, (1, 3, 6), torch.float32, False),
    ("mcp", "linf", 2, "reflect", 1, 2, 3, (2, 4, 4), torch.float64, False),
    ("mcp", "l2", 2, "valid", 1, 4, 3, (1, 3, 5), torch.float64, True),
    ("huber", "l2", 2, "circular", 1, 6, 3, (1, 4, 5), torch.float32, False),
    ("huber", "linf", 4, "valid", 1, 4, 3, (1, 3, 5), torch.float32, True),
]
if DEVICE == "cuda":
    GROUPS += [
        ("mcp", norm, size, "circular", 1, 48, 7, (3, 130, 217), dtype, True)
        for norm in NORMS for size in SIZES for dtype in (torch.float32, torch.float64)
    ]  # fmt: skip


def problem(potential, boundary, channels, experts, size, shape, dtype, **groups):
    functional = field(channels, experts, size, potential, boundary, dtype, **groups)
    functional = moved(functional, lambda t: t.to(DEVICE))
    images = torch.randn((2, shape[0], channels, *shape[1:]), generator=torch.Generator().manual_seed(0), dtype=dtype)
    return functional, *images.to(DEVICE)


def moved(functional, to):
    names = ("filters", "weights", "smoothings", "contrasts", "masks")
    tensors = {name: to(t) for name in names if (t := getattr(functional, name)) is not None}
    if functional.potential.shape is not None:
        shape, potential = to(functional.potential.shape), functional.potential
        of_groups = isinstance(potential, GroupPotential)
        tensors["potential"] = replace(potential, shape=shape) if of_groups else spline(shape, potential.budgeted)
    return replace(functional, **tensors)


def in_double(functional, *images, monkeypatch) -> list[torch.Tensor]:
    """By torch. Its convolutions of float32 are rounded to fewer bits on some GPUs."""
    return in_torch(moved(functional, torch.Tensor.double), *(image.double() for image in images), monkeypatch)


def in_triton(functional, x, v, monkeypatch) -> list[torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr("regularizers.foe.functional.fastest", lambda *a: cuda.compiled_kernel(*a[2:]))
        return everything(functional, x, v)


def summary_in_torch(functional, x):
    d = functional.potential.curvature(analysis(x, functional.filters), functional.weights, functional.smoothings).abs()
    return d.sum((2, 3)), synthesis(d, functional.scale * functional.filters.square())


def assert_same(results, expected, dtype) -> None:
    for a, b in zip(results, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * float(b.abs().max()))


@executed
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_computes_what_torch_computes(case, monkeypatch):
    functional, x, v = problem(*case)
    expected = in_double(functional, x, v, monkeypatch=monkeypatch)
    assert_same(in_triton(functional, x, v, monkeypatch), expected, x.dtype)


@executed
def test_contrasts_and_masks_are_those_of_the_response(monkeypatch):
    functional, x, v = problem("mcp", "circular", 1, 3, 3, (2, 3, 4), torch.float64)
    functional = modulated(functional, x.shape)
    expected = in_double(functional, x, v, monkeypatch=monkeypatch)
    assert_same(in_triton(functional, x, v, monkeypatch), expected, x.dtype)


@executed
@pytest.mark.parametrize("case", GROUPS)
def test_the_kernel_computes_groups_as_torch_does(case, monkeypatch):
    potential, norm, group, *rest, adaptive = case
    functional, x, v = problem(potential, *rest, group_size=group, group_norm=norm)
    x *= torch.logspace(-3, 0, x.shape[3], dtype=x.dtype, device=x.device)  # on both sides of every kink
    functional = modulated(functional, x.shape) if adaptive else functional
    expected = in_double(functional, x, v, monkeypatch=monkeypatch)
    assert_same(in_triton(functional, x, v, monkeypatch), expected, x.dtype)


@executed
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_response_that_rounding_alone_keeps_leaves_the_convex_part_convex(dtype):
    """As in test_kernels.py, each pixel with another distance from the threshold tau = 0.3."""
    steps, tau = torch.arange(-44, 44, dtype=dtype).view(8, 11), torch.tensor(0.3, dtype=dtype)
    x, one = torch.zeros(1, 4, 8, 11, dtype=dtype), torch.ones(1, 1, 1, dtype=dtype)
    x[0, 0], x[0, 1] = 1 + tau, torch.nextafter(tau, 1 + tau) + steps * torch.finfo(dtype).eps / 8
    filters = torch.eye(4, dtype=dtype).view(4, 4, 1, 1)
    functional = FieldOfExpertsFunctional(filters, one, one, group_potential("huber", "linf", 4), "valid", 1.0)
    functional, x = moved(functional, lambda t: t.to(DEVICE)), x.to(DEVICE)
    product = cuda.compiled_kernel("huber_linf", 4).hessian(functional, x)
    first, both = torch.zeros_like(x), torch.zeros_like(x)
    first[:, 0], both[:, :2] = 1, 1
    assert float((both * product(both)).sum(1).min()) >= -1e-6
    assert {float(value) for value in product(first)[:, 0].unique()} == {0.0, 0.5}, "one is kept, or both are"


@executed
@pytest.mark.parametrize("potential", ["mcp", "log"])
def test_the_summary_is_of_absolute_curvatures(potential):
    functional, x, _ = problem(potential, "valid", 1, 5, 3, (2, 11, 4), torch.float64)
    assert_same(cuda.compiled_kernel(potential).summary(functional, x), summary_in_torch(functional, x), x.dtype)


@executed
def test_one_program_may_have_all_experts_or_all_tiles(monkeypatch):
    functional, x, v = problem("huber", "valid", 1, 5, 3, (2, 4, 4), torch.float64)
    expected = in_torch(functional, x, v, monkeypatch)
    monkeypatch.setattr(cuda, "PROGRAMS", 1)
    assert_same(in_triton(functional, x, v, monkeypatch), expected, x.dtype)


@executed
def test_views_are_read_correctly(monkeypatch):
    functional, x, v = problem("huber", "valid", 1, 2, 3, (1, 5, 16), torch.float64)
    transposed = replace(functional, filters=functional.filters.transpose(2, 3))
    x, v = x.transpose(2, 3)[:, :, ::2], v.transpose(2, 3)[:, :, 1::2]
    assert_same(in_triton(transposed, x, v, monkeypatch), in_torch(transposed, x, v, monkeypatch), x.dtype)


@pytest.mark.skipif(not GPU or INTERPRETED, reason="no GPU")
def test_results_are_the_same_bits_every_time(monkeypatch):
    functional, x, v = problem("mcp", "circular", 3, 24, 7, (2, 200, 300), torch.float32)
    for a, b in zip(*(in_triton(functional, x, v, monkeypatch) for _ in range(2)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(GPU or INTERPRETED, reason="the other tests run in this process")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", __file__]
    run = subprocess.run(
        command,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


# What the interpreter accepts the compiler may refuse; it needs no GPU.
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
@pytest.mark.parametrize(
    "name, real, constants",
    [
        ("_parts", "fp32", {"MODE": "gradient", "POTENTIAL": "charbonnier"}),
        ("_parts", "fp64", {"MODE": "product", "POTENTIAL": "mcp", "CHANNELS": 3}),
        ("_derivatives", "fp64", {"POTENTIAL": "mcp"}),
        ("_derivatives", "fp32", {"POTENTIAL": "log"}),
        ("_parts", "fp32", {"MODE": "gradient", "POTENTIAL": "mcp", "ADAPTIVE": True, "MASKED": True}),
        ("_derivatives", "fp32", {"POTENTIAL": "spline", "ADAPTIVE": True, "MASKED": True, "SHAPE": len(KNOTS)}),
        ("_parts", "fp64", {"MODE": "gradient", "POTENTIAL": "huber", "NORM": "l2", "GROUP": 4}),
        ("_parts", "fp32", {"MODE": "product", "POTENTIAL": "mcp", "NORM": "linf", "GROUP": 2, "SHAPE": 5}),
        ("_derivatives", "fp32", {"POTENTIAL": "mcp", "NORM": "l2", "GROUP": 2, "SHAPE": 5, "MASKED": True}),
        ("_sum_parts", "fp64", {"SCALE": 0.95, "CHANNELS": 3}),
    ],
)  # fmt: skip
def test_the_kernels_compile_for_hopper(name, real, constants, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(cuda, name)
    single = {"ADAPTIVE": False, "MASKED": False, "NORM": "", "GROUP": 1, "SHAPE": 0, "CHANNELS": 1, "SIZE": 3}
    constants = {n: value for n, value in {**single, **constants}.items() if n in function.arg_names}
    integers = {"height", "width", "groups", "blocks", "tiles", "shares"}
    types = {n: "constexpr" if n in constants else "i32" if n in integers else f"*{real}" for n in function.arg_names}
    assert not any(n.isupper() for n, kind in types.items() if kind != "constexpr")
    source = ASTSource(fn=function, signature=types, constexprs=constants)
    options = cuda.FUSED if name == "_sum_parts" else cuda.OPTIONS
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    fused = {"fp32": "fma.rn.f32", "fp64": "fma.rn.f64"}[real]
    assert name == "_sum_parts" or fused in compiled.asm["ptx"]


def test_without_triton_there_is_one_warning(monkeypatch):
    monkeypatch.setattr(cuda, "UNUSABLE", "No module named 'triton'")
    cuda.compiled_kernel.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"no Triton.*: No module named 'triton'"):
            assert cuda.compiled_kernel("huber") is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert cuda.compiled_kernel("huber") is None
    finally:
        cuda.compiled_kernel.cache_clear()
