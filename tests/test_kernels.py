"""The fused kernels against the same formulas in torch, tile borders and fall-backs included."""

import os
import warnings
from dataclasses import replace

import pytest
import torch

from regularizers import POTENTIALS, FieldOfExperts
from regularizers.foe.compiled import choice, cpu
from regularizers.foe.functional import FieldOfExpertsFunctional
from regularizers.foe.groups import group_potential
from tests.problems import perturbed

needs_compiler = pytest.mark.skipif(cpu.compiled_kernel(torch.float32, 3, "huber") is None, reason="no C++ compiler")


def field(channels: int, filters: int, size: int, potential: str, boundary: str, dtype, **groups):
    r = FieldOfExperts(channels, filters, size, potential, boundary=boundary, weight=0.6, smoothing=0.2, **groups)
    return perturbed(r.to(dtype)).frozen()


def modulated(functional: FieldOfExpertsFunctional, shape: torch.Size) -> FieldOfExpertsFunctional:
    """With random contrasts and masks of images of this shape."""
    lost = functional.filters.shape[-1] - 1 if functional.boundary == "valid" else 0
    batch, _, h, w = shape
    generator, size = torch.Generator().manual_seed(3), (batch, len(functional.weights), h - lost, w - lost)
    g, m = (torch.rand(size, generator=generator).to(functional.filters) for _ in range(2))
    return replace(functional, contrasts=0.5 + g, masks=m)


def everything(functional: FieldOfExpertsFunctional, x: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
    return [functional.gradient(x), functional.hessian(x)(v), *functional.mixed(x, v), *functional.curvature_model(x)]


def in_torch(functional: FieldOfExpertsFunctional, x: torch.Tensor, v: torch.Tensor, monkeypatch) -> list[torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr("regularizers.foe.functional.fastest", lambda *_: None)
        return everything(functional, x, v)


# Not all pairs of a potential and a filter size: each is compiled, which takes longer than all else here.
CASES = [
    *((p, *rest) for p in POTENTIALS for rest in [("valid", 1, 24, 3), ("circular", 3, 5, 3), ("reflect", 1, 9, 3)]),
    *((p, "valid", 1, 48, 7) for p in ("charbonnier", "mcp", "weak_spline")),
    ("mcp", "reflect", 1, 9, 11),
]


# Sizes on both sides of a tile's border in each direction, and the smallest image there can be.
@needs_compiler
@pytest.mark.parametrize("shape", [(2, 11, 11), (1, 40, 230), (3, 17, 64)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("adaptive", [False, True], ids=["", "modulated"])
def test_the_kernel_computes_what_torch_computes(case, shape, dtype, adaptive, monkeypatch):
    potential, boundary, channels, filters, size = case
    functional = field(channels, filters, size, potential, boundary, dtype)
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn((2, shape[0], channels, *shape[1:]), generator=generator, dtype=torch.float64).to(dtype)
    functional = modulated(functional, x.shape) if adaptive else functional
    assert_same(everything(functional, x, v), in_torch(functional, x, v, monkeypatch))


def assert_same(results: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    tolerance = {torch.float32: 2e-4, torch.float64: 1e-10}[results[0].dtype]
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


# Potential, norm, responses of a group, boundary, channels, experts, filter size, batch and image, type. 12 experts are
# no multiple of a block.
GROUPS = [
    ("mcp", "linf", 4, "circular", 1, 12, 13, (2, 40, 230), torch.float32),
    ("mcp", "l2", 4, "reflect", 3, 12, 5, (1, 40, 230), torch.float32),
    ("mcp", "linf", 2, "valid", 2, 14, 3, (1, 5, 40), torch.float64),
    ("mcp", "l2", 2, "circular", 1, 48, 7, (1, 17, 64), torch.float64),
    ("mcp", "linf", 4, "valid", 1, 20, 7, (1, 20, 31), torch.float64),
    ("huber", "linf", 4, "circular", 1, 8, 3, (2, 9, 33), torch.float64),
    ("huber", "l2", 2, "circular", 1, 12, 3, (2, 9, 33), torch.float32),
]


@needs_compiler
@pytest.mark.parametrize("case", GROUPS, ids=lambda case: "-".join(map(str, case[:7])))
@pytest.mark.parametrize("adaptive", [False, True], ids=["", "modulated"])
def test_the_kernel_computes_groups_as_torch_does(case, adaptive, monkeypatch):
    potential, norm, group, boundary, channels, experts, size, shape, dtype = case
    functional = field(channels, experts, size, potential, boundary, dtype, group_size=group, group_norm=norm)
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn((2, shape[0], channels, *shape[1:]), generator=generator, dtype=torch.float64).to(dtype)
    x *= 0.3  # on both sides of every kink
    functional = modulated(functional, x.shape) if adaptive else functional
    result = everything(functional, x, v)
    assert_same(result, in_torch(functional, x, v, monkeypatch))
    monkeypatch.setattr(cpu, "REMEMBERED_BYTES", 0)
    assert_same([functional.hessian(x)(v)], result[1:2])


@needs_compiler
def test_a_hessian_too_large_to_remember_is_the_same_hessian(monkeypatch):
    x, v = torch.randn(2, 2, 1, 40, 30, dtype=torch.float64)
    functional = modulated(field(1, 7, 5, "charbonnier", "reflect", torch.float64), x.shape)
    remembered = functional.hessian(x)(v)
    monkeypatch.setattr(cpu, "REMEMBERED_BYTES", 0)
    torch.testing.assert_close(functional.hessian(x)(v), remembered)


@needs_compiler
def test_results_do_not_depend_on_the_number_of_threads():
    x, v = torch.randn(2, 2, 1, 150, 40)
    functional = modulated(field(1, 8, 7, "mcp", "circular", torch.float32), x.shape)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            gradient, product, *mixed, _, diagonal = everything(functional, x, v)  # the stencil is torch's own sum
            results.append([gradient, product, *mixed, diagonal])
    finally:
        torch.set_num_threads(threads)
    for a, b, c in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@needs_compiler
def test_views_are_read_correctly(monkeypatch):
    functional = field(1, 4, 3, "huber", "valid", torch.float64)
    x = torch.randn(2, 1, 20, 30, dtype=torch.float64).transpose(-1, -2)
    v = torch.randn(2, 1, 60, 20, dtype=torch.float64)[:, :, ::2]
    transposed = replace(functional, filters=functional.filters.transpose(2, 3))
    for a, b in zip(everything(transposed, x, v), in_torch(transposed, x, v, monkeypatch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_without_a_compiler_there_is_one_warning_and_the_same_result(monkeypatch, tmp_path):
    functional = field(1, 4, 3, "huber", "valid", torch.float64)
    x, v = torch.randn(2, 2, 1, 12, 12, dtype=torch.float64)
    expected = everything(functional, x, v)
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu.compiled_kernel.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"no compiled kernel.*no-compiler failed: no such program"):
            result = everything(functional, x, v)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            everything(functional, x, v)
    finally:
        cpu.compiled_kernel.cache_clear()
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho unknown option >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu.compiled_kernel.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="broken failed: unknown option"):
            assert cpu.compiled_kernel(torch.float32, 3, "huber") is None
    finally:
        cpu.compiled_kernel.cache_clear()
    assert not list(tmp_path.rglob("*.so"))


def test_what_is_to_be_differentiated_is_left_to_torch():
    r = FieldOfExperts(1, 4, 3, "huber")
    x = torch.randn(1, 1, 9, 9, requires_grad=True)
    assert r.functional()._compiled(x) is None
    with torch.no_grad():
        assert (r.functional()._compiled(x) is None) == (choice.fastest(x, 3, "huber") is None)


@pytest.fixture
def compile_anew(tmp_path, monkeypatch):
    """A compiler "cc -O1" that counts its calls and hands out `product`, by default the library; what calls it."""
    kernel = cpu.compiled_kernel(torch.float32, 3, "huber")
    ready, script = kernel.library._name if kernel else "/dev/null", tmp_path / "a b" / "cc"
    script.parent.mkdir()
    output = 'while [ "$1" != -o ]; do shift; done; cp "$product" "$2"'
    script.write_text(f'#!/bin/sh\n[ "$1" = -O1 ] || exit 1\necho >> "$0.calls"\n{output}\n')
    script.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("product", ready)

    def run(compiler: str = f"'{script}' -O1") -> tuple[bool, int]:
        monkeypatch.setenv("CXX", compiler)
        found = cpu.compiled_kernel.__wrapped__(torch.float32, 3, "huber") is not None
        calls = script.with_name("cc.calls")
        return found, calls.read_text().count("\n") if calls.exists() else 0

    return run


@needs_compiler
def test_a_library_that_is_not_whole_is_compiled_anew_and_one_that_is_not(compile_anew, tmp_path):
    assert compile_anew() == compile_anew() == (True, 1)
    (library,) = (tmp_path / "cache" / "bilevel-regularizers").glob("*.so")
    whole = library.read_bytes()
    for n, damaged in enumerate((b"", whole[: len(whole) // 2], b"garbage" * 99, whole[:-1] + b"!")):
        library.unlink()  # what is mapped already stays as it is
        library.write_bytes(damaged)
        assert compile_anew() == (True, n + 2)
    library.chmod(0o777)
    assert compile_anew() == (True, 6)
    library.rename(tmp_path / "elsewhere.so")
    library.symlink_to(tmp_path / "elsewhere.so")
    assert compile_anew() == (True, 7)


def test_what_a_compiler_makes_is_kept_only_if_it_is_the_library(compile_anew, tmp_path, monkeypatch):
    monkeypatch.setenv("product", __file__)
    for compiler in (None, "c++ 'open", "nosuch -O2"):
        with pytest.warns(RuntimeWarning, match="no compiled kernel"):
            assert not compile_anew(*([compiler] if compiler else []))[0]
    assert list((tmp_path / "cache" / "bilevel-regularizers").iterdir()) == []


def test_a_cache_that_others_may_write_to_or_that_is_a_link_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = tmp_path / "cache" / "bilevel-regularizers", tmp_path / f"bilevel-regularizers-{os.getuid()}"
    assert cpu._cache_folder() == first
    first.chmod(0o777)
    assert cpu._cache_folder() == second
    second.rename(tmp_path / "elsewhere")
    second.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="by you alone"):
        cpu._cache_folder()


def test_without_a_home_the_cache_lies_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cpu._cache_folder() == tmp_path / f"bilevel-regularizers-{os.getuid()}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_response_that_rounding_alone_keeps_leaves_the_convex_part_convex(dtype):
    """P' = diag(kept) - n n^T has as many entries in n as were kept, also where their sums do not tell one from two."""
    second = torch.nextafter(torch.tensor(0.3, dtype=dtype), torch.tensor(1.0, dtype=dtype))
    filters = torch.zeros(4, 4, 3, 3, dtype=dtype)
    filters[range(4), range(4), 1, 1] = 1
    x = torch.zeros(1, 4, 5, 5, dtype=dtype)
    x[0, 0], x[0, 1] = 1 + torch.tensor(0.3, dtype=dtype), second  # tau = 0.3 with one or with both
    one = torch.ones(1, 1, 1, dtype=dtype)
    functional = FieldOfExpertsFunctional(filters, one, one, group_potential("huber", "linf", 4), "circular", 1.0)
    v = torch.zeros_like(x)
    v[0, :2] = 1
    for step in range(-40, 41):
        x[0, 1] = second + step * torch.finfo(dtype).eps / 8
        assert float((v * functional.hessian(x)(v)).sum()) >= -1e-6
