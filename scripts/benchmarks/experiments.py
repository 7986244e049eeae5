"""The tables of `scripts/benchmark`; each function yields rows."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from app import assemble
from app.evaluation.simulation import simulation
from app.lower import agd, lbfgs
from app.lower.energy import Energy
from app.lower.solution import LowerSolution
from app.problem.losses import SquaredError
from app.upper.bound import error_bound
from app.upper.hypergradient import hypergradient
from app.upper.linear import LinearSolution, conjugate_gradient
from regularizers import CHARBONNIER, FieldOfExperts
from regularizers.foe import functional as foe
from regularizers.foe.filter_bank import pad
from regularizers.foe.groups import NORMS
from scripts.benchmarks import hypergradient_methods, lower_methods
from scripts.benchmarks.hypergradient_methods import vector
from scripts.benchmarks.lower_methods import Arrived, Late, Observer
from scripts.benchmarks.measure import copy_rate, matrix_product_rate, peak_memory, seconds, synchronize
from scripts.benchmarks.problems import denoising_problem, in_double
from scripts.benchmarks.reference import plain
from scripts.benchmarks.tape import Tape, Taped

Rows = Iterator[dict[str, Any]]


@contextmanager
def compiled_kernels_off() -> Iterator[None]:
    """Compute with torch alone, by shifts and convolutions, without the compiled kernels."""
    fastest, foe.fastest = foe.fastest, lambda *_: None
    try:
        yield
    finally:
        foe.fastest = fastest


def operations(regularizer: FieldOfExperts, x: Tensor) -> Rows:  # (B, C, H, W)
    """Time derivatives of R against autograd, and against the floor: flops by this machine's matrix-product rate (on a
    GPU, if larger, bytes by its copy rate)."""
    with torch.no_grad():
        frozen = regularizer.functional()
    reference, v = plain(frozen), torch.randn_like(x)
    hessian, reference_hessian = frozen.hessian(x), reference.hessian(x)
    filters = frozen.filters
    padded = pad(x, filters.shape[-1], frozen.boundary)
    responses = len(x) * math.prod(n - filters.shape[-1] + 1 for n in padded.shape[2:])
    one_filtering = 2 * responses * filters.numel() / matrix_product_rate(x.device)
    one_copy = x.numel() * x.element_size() / copy_rate(x.device)
    table: dict[str, tuple[int, Callable, Callable]] = {
        "gradient": (2, lambda: frozen.gradient(x), lambda: reference.gradient(x)),
        "Hessian-vector product": (2, lambda: hessian(v), lambda: reference_hessian(v)),
        "mixed derivative": (4, lambda: frozen.mixed(x, v), lambda: reference.mixed(x, v)),
    }
    for name, (filterings, fast, slow) in table.items():
        ours, theirs = seconds(x.device, fast, slow)
        floor = filterings * one_filtering
        if x.device.type == "cuda":
            floor = max(floor, 3 * one_copy)
        yield {
            "operation": name, "ours (ms)": 1e3 * ours, "autograd (ms)": 1e3 * theirs, "faster by": theirs / ours,
            "floor (ms)": 1e3 * floor, "ours / floor": ours / floor,
        }  # fmt: skip


LOWER_METHODS: dict[str, Callable[[Any, Tensor], object]] = {
    "ours: preconditioned L-BFGS": lambda e, x: lbfgs.solve(e, x, 0.0),
    "ours: accelerated gradient": lambda e, x: agd.solve(e, x, 0.0),
    "FISTA, proven L": lower_methods.fista,
    "FISTA, estimated L": lower_methods.fista_estimated,
    "gradient descent, proven L": lower_methods.gradient_descent,
    "Barzilai-Borwein": lower_methods.barzilai_borwein,
    "deepinv GD, backtracking": lower_methods.deepinv_gradient_descent,
    "torch L-BFGS, strong Wolfe": lower_methods.plain_lbfgs,
}


def lower_solves(
    regularizer: FieldOfExperts, clean: Tensor, accuracies: tuple[float, ...], limit: float = 30.0
) -> Rows:
    """Count gradients and time until the true error of every image (B, C, H, W) is below eps; a preconditioner counts
    as a gradient. Methods of torch run image by image, as they have one step for all variables.

    limit: seconds per batch, or per image where they run image by image.
    """
    energy = denoising_problem(regularizer, clean)
    _, exact, _ = in_double(regularizer, energy, clean)
    minimiser = lbfgs.solve(exact, exact.y, 1e-6).x.to(energy.y)
    for accuracy in accuracies:
        for name, method in LOWER_METHODS.items():
            images = [torch.tensor([i]) for i in range(len(clean))] if "torch" in name else [torch.arange(len(clean))]
            arrived, spent = [], 0.0
            for part in images:
                start = time.perf_counter()
                observer = Observer(energy.take(part), minimiser[part], accuracy, start + limit)
                with suppress(Arrived, Late):
                    method(observer, observer.energy.backprojection)
                spent += time.perf_counter() - start
                arrived += observer.arrived.tolist()
                if min(arrived) == 0:
                    break
            extra = 2 if "preconditioned" in name else 0
            yield {
                "eps": accuracy, "method": name,
                "gradients per image": sum(arrived) / len(arrived) + extra if min(arrived) else "not reached",
                "seconds": spent if min(arrived) else f"> {spent:.0f}",
            }  # fmt: skip


def hypergradients(regularizer: FieldOfExperts, clean: Tensor, targets: tuple[float, ...], limit: float = 45.0) -> Rows:
    """Time one hypergradient of a batch (B, C, H, W) at equal measured accuracy, and our proven bound on its error.

    Each method runs at the loosest accuracy that meets the target, found beforehand against float64; `limit` is what
    one run may take, in seconds. Where float32 does not have the digits, everything runs in float64. Unrolling and deep
    equilibrium see the first image alone, and so do we beside them."""
    for images, others in ((len(clean), OTHERS[:1]), (1, OTHERS[1:])):
        part = clean[:images]
        problem = regularizer, denoising_problem(regularizer, part), SquaredError(part)
        double = in_double(*problem[:2], part)
        exact = vector(hypergradient_methods.ours(*double, 1e-7).gradient)
        for target in targets:
            accuracies = [10 ** (-i / 4) for i in range(29)]
            used, ours = problem, _loosest(_ours, accuracies, problem, exact, target, limit)
            if not ours["measured error"] <= target:
                used, ours = double, _loosest(_ours, accuracies, double, exact, target, limit)
            row = {"images": images, "dtype": str(used[1].y.dtype)[6:], "relative error <=": target}
            yield row | {"method": "ours"} | ours | {"ours faster by": ""} | _bound(used, ours["at"], exact)
            for name, method in others:
                numbers = [2.0**i * 25 for i in range(8)]
                if name == "written today":
                    numbers = [ours["at"] * 10 ** (1 - i / 2) for i in range(8)]
                theirs = _loosest(method, numbers, used, exact, target, limit)
                ratio = theirs["seconds"] / ours["seconds"]
                reached = theirs["measured error"] <= target
                yield row | {"method": name} | theirs | {
                    "seconds": theirs["seconds"] if reached else f"> {theirs['seconds']:.0f}",
                    "ours faster by": ratio if reached else f"> {ratio:.0f}",
                    "omega / norm": "", "omega holds": "",
                }  # fmt: skip


def _ours(regularizer: FieldOfExperts, energy: Energy, loss: SquaredError, accuracy: float, deadline: float) -> Tensor:
    z = hypergradient_methods.ours(regularizer, energy, loss, accuracy)
    if not (z.lower.converged & z.linear.converged).all():
        raise Late  # tighter asks for digits the type does not have
    return vector(z.gradient)


OTHERS: list[tuple[str, Callable[..., Tensor]]] = [
    ("written today", hypergradient_methods.written_today),
    ("unrolled", hypergradient_methods.unrolled),
    ("deep equilibrium", hypergradient_methods.deep_equilibrium),
]


def _loosest(
    method: Callable[..., Tensor], numbers: list[float], problem: tuple, exact: Tensor, target: float, limit: float
) -> dict[str, Any]:
    """Return the first of the numbers whose result is within the target, or the last one that time and 8 GB allow."""
    device, found = problem[1].y.device, {}
    for number in numbers:
        with peak_memory(device) as memory, suppress(Late):
            start, error = time.perf_counter(), math.nan
            result = method(*problem, number, start + limit)
            synchronize(device)
            error = float((result - exact).norm() / exact.norm())
        spent = time.perf_counter() - start
        found = {"seconds": spent, "at": number, "measured error": error, "memory (MB)": memory[0] / 1e6}
        if error <= target:
            if spent < 5:
                run = partial(method, *problem, number, math.inf)
                found["seconds"] = seconds(device, run, repetitions=3)[0]
            break
        if math.isnan(error) or spent > limit / 2 or memory[0] > 4e9:  # the next one takes twice as much
            break
    return found


def _bound(problem: tuple, accuracy: float, exact: Tensor) -> dict[str, Any]:
    regularizer, energy, loss = problem
    z = hypergradient_methods.ours(regularizer, energy, loss, accuracy)
    omega = float(error_bound(regularizer, energy, loss.smoothness, z.lower, z.linear).mean())
    holds = float((vector(z.gradient) - exact).norm()) <= omega
    return {"omega / norm": omega / float(exact.norm()), "omega holds": "yes" if holds else "NO"}


def shapes(device: torch.device) -> Rows:
    """Time the gradient of R against two plain convolutions around the same potential, for many shapes of both."""
    cases = [(1, 48, size, 8, 128) for size in (3, 5, 7, 9, 11)]
    cases += [(3, 48, size, 8, 128) for size in (5, 7)]
    cases += [(1, 24, 7, 8, 128), (1, 96, 7, 8, 128)]
    cases += [(1, 48, 7, 1, 128), (1, 48, 7, 32, 128), (1, 48, 7, 8, 64), (1, 48, 7, 1, 512), (1, 48, 7, 1, 1024)]
    for channels, filters, size, batch, side in cases:
        filters = min(filters, channels * (size**2 - 1))
        f = FieldOfExperts(channels, filters, size, CHARBONNIER, boundary="valid").to(device).frozen()
        x = torch.rand(batch, channels, side, side, device=device)

        def convolutions(f=f, x=x) -> Tensor:
            u = F.conv2d(x, f.filters)  # type: ignore[attr-defined]
            z = f.weights * f.potential.influence(u, f.weights, f.smoothings)  # type: ignore[attr-defined]
            return F.conv_transpose2d(z, f.filters)  # type: ignore[attr-defined]

        ours, theirs = seconds(device, lambda f=f, x=x: f.gradient(x), convolutions, repetitions=7)
        flops = 4 * batch * (side - size + 1) ** 2 * filters * channels * size**2
        yield {
            "channels": channels, "filters": filters, "size": size, "batch": batch, "side": side,
            "ours (ms)": 1e3 * ours, "plain (ms)": 1e3 * theirs, "faster by": theirs / ours,
            "Gflop/s": flops / ours / 1e9,
        }  # fmt: skip


def groups(device: torch.device) -> Rows:
    """Time derivatives of R with `mcp` of groups of four responses against single ones, with banks as large."""
    x, v = torch.rand(2, 8, 1, 128, 128, device=device)
    for filters, size in ((60, 13), (64, 7)):
        kinds: list[dict[str, Any]] = [{}, *({"group_size": 4, "group_norm": norm} for norm in NORMS)]
        fields = [FieldOfExperts(1, filters, size, "mcp", weight=0.05, **k).to(device).frozen() for k in kinds]
        table: dict[str, Callable[[Any], Callable]] = {
            "gradient": lambda f: partial(f.gradient, x),
            "Hessian-vector product": lambda f: partial(f.hessian(x), v),
            "mixed derivative": lambda f: partial(f.mixed, x, v),
        }
        for name, of in table.items():
            single, *others = seconds(device, *map(of, fields))
            yield {"filters": filters, "size": size, "operation": name, "single (ms)": 1e3 * single} | {
                f"{norm} / single": t / single for norm, t in zip(NORMS, others, strict=True)
            }


def memory(regularizer: FieldOfExperts, photograph: Callable[[int], Tensor]) -> Rows:
    """Measure bytes per pixel at the peak, beyond the image (1, C, side, side) itself."""
    with torch.no_grad():
        reference = plain(regularizer.functional())
    for side in (512, 1024):
        clean = photograph(side)
        energy = denoising_problem(regularizer, clean)
        x = energy.y
        table: dict[str, Callable] = {
            "gradient": lambda e=energy, x=x: e.functional.gradient(x),
            "Hessian-vector product": lambda e=energy, x=x: e.functional.hessian(x)(x),
            "lower-level solve to 0.1": lambda e=energy, x=x: lbfgs.solve(e, x, 0.1),
            "gradient by autograd": lambda x=x: reference.gradient(x),
            "Hessian-vector product by autograd": lambda x=x: reference.hessian(x)(x),
        }
        for name, run in table.items():
            with peak_memory(x.device) as found:
                run()
            yield {"side": side, "operation": name, "bytes per pixel": found[0] / clean.numel()}


def whole_images(regularizer: FieldOfExperts, photograph: Callable[[int, int], Tensor]) -> Rows:
    """Reconstruct whole images (1, C, H, W). `changed` is the largest change of an 8-bit pixel in a solve 30 times
    tighter."""
    for height, width, accuracy in ((512, 768, 0.1), (512, 768, 0.03), (4096, 4096, 0.1)):
        clean = photograph(height, width)
        energy = denoising_problem(regularizer, clean)
        with peak_memory(clean.device) as found:
            start = time.perf_counter()
            solution = lbfgs.solve(energy, energy.y, accuracy)
            synchronize(clean.device)
            spent = time.perf_counter() - start
        changed: Any = ""
        if height < 4096:
            _, exact, _ = in_double(regularizer, energy, clean)
            tight = lbfgs.solve(exact, solution.x.double(), accuracy / 30).x
            changed = int((_bytes(tight) - _bytes(solution.x)).abs().max())
        yield {
            "image": f"{height} x {width}", "eps": accuracy, "seconds": spent, "gradients": int(solution.iterations[0]),
            "certified error": float(solution.error_bound[0]), "peak (MB)": found[0] / 1e6,
            "bytes per pixel": found[0] / clean.numel(), "changed": changed,
        }  # fmt: skip


def inverse_problems(photograph: Callable[[int, int], Tensor], data_root: Path) -> Rows:
    """Measure photographs as shipped models of other problems have them measured, and reconstruct, on the CPU."""
    for model, side, *settings in (("foe-mri-grey-4x", 320), ("foe-tomography-grey-16", 362, "problem.angles=60")):
        learned, config = assemble.load(model, [*settings, "run.device=cpu"])
        simulated, clean = simulation(config, learned, data_root), photograph(side, side)
        y = simulated.measure(clean, (0,))
        with peak_memory(clean.device) as found:
            start = time.perf_counter()
            solution = simulated(y, (0,), clean.shape[1:])
            spent = time.perf_counter() - start
        yield {
            "model": model, "image": f"{side} x {side}", "seconds": spent, "gradients": int(solution.iterations[0]),
            "certified error / norm of x": float(solution.error_bound[0] / solution.x.norm()),
            "peak (MB)": found[0] / 1e6,
        }  # fmt: skip


def _bytes(x: Tensor) -> Tensor:
    return (x.double().clamp(0, 1) * 255).round()


Step = Callable[[Energy, Callable[[Tensor, Tensor], Any]], tuple[LowerSolution, LinearSolution]]


def training_step(regularizer: FieldOfExperts, clean: Tensor, accuracy: float) -> Rows:
    """Time one hypergradient of a batch (B, C, H, W) in torch alone, with the compiled kernel, and with the
    preconditioned solvers too, and tell the factor that its parts predict, timed in turns with all steps.

    The parts are the passes over the filters (gradients, products, what a Hessian and a preconditioner compute of x,
    the mixed derivative), each timed by itself on all images and counted image by image, and the solvers: the same step
    with the results of these passes played back. What parts cannot predict is that passes over few images, and passes
    that meet cold caches, take longer."""
    energy, loss = denoising_problem(regularizer, clean), SquaredError(clean)

    def accelerated(energy: Energy, mixed: Callable[[Tensor, Tensor], Any]) -> tuple[LowerSolution, LinearSolution]:
        lower = agd.solve(energy, energy.y, accuracy)
        b = loss.gradient(lower.x)
        linear = conjugate_gradient(energy.hessian(lower.x), b, b.new_full((len(b),), accuracy))
        mixed(lower.x, linear.q)
        return lower, linear

    def preconditioned(energy: Energy, mixed: Callable[[Tensor, Tensor], Any]) -> tuple[LowerSolution, LinearSolution]:
        learned: Any = SimpleNamespace(mixed=mixed)
        z = hypergradient(learned, energy, loss, lbfgs.solve, energy.y, accuracy=accuracy)
        return z.lower, z.linear

    with compiled_kernels_off():
        counts, passes, functions = _taken_apart(accelerated, regularizer, energy)
    table = [(counts, passes, [compiled_kernels_off()(f) for f in functions])]
    table += [_taken_apart(step, regularizer, energy) for step in (accelerated, preconditioned)]
    times = iter(seconds(clean.device, *(f for *_, functions in table for f in functions)))
    names = ("torch, accelerated gradient, CG", "compiled kernel", "preconditioned L-BFGS and CG")
    first = None
    for name, (counts, passes, functions) in zip(names, table, strict=True):
        spent, solvers, *each = islice(times, len(functions))
        filters = math.fsum(n * t for n, t in zip(passes, each, strict=True))
        first = first or (spent, filters + solvers)
        yield {
            "step": name, "ms": 1e3 * spent, "gradients + products": counts, "filters (ms)": 1e3 * filters,
            "solvers (ms)": 1e3 * solvers, "factor": first[0] / spent, "parts predict": first[1] / (filters + solvers),
        }  # fmt: skip


def _taken_apart(
    step: Step, regularizer: FieldOfExperts, energy: Energy
) -> tuple[str, list[float], list[Callable[[], object]]]:
    """Return gradients and products per image as text; how often each pass meets all images; what to time: the step,
    the step played back, and one of each pass."""
    tape, functional = Tape(), energy.functional
    taped = replace(energy, functional=Taped(functional, tape))
    mixed = partial(tape.run, "mixed derivative", regularizer.mixed)
    lower, linear = step(taped, mixed)

    def solvers() -> None:
        tape.rewind()
        step(taped, mixed)

    x, q = lower.x, linear.q
    one = {
        "gradient": partial(functional.gradient, x),
        "Hessian": partial(functional.hessian, x),
        "product": partial(functional.hessian(x), q),
        "curvature model": partial(functional.curvature_model, x),
        "mixed derivative": partial(regularizer.mixed, x, q),
    }
    counts = " + ".join(f"{float(part.iterations.double().mean()):.0f}" for part in (lower, linear))
    passes = [images / len(x) for images in tape.images.values()]
    return counts, passes, [partial(step, energy, regularizer.mixed), solvers, *(one[name] for name in tape.images)]
