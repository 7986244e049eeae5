"""Count violations of  exact bound <= stated bound,  exact = ||grad h(x)|| / mu  at the array that was handed over.

The gradient is that of torch.autograd in float64, of values that are written down here or in the regularizer, with
deepinv's A, or the A of the problem where it is none of denoising or deblurring: no closed form, compiled kernel or
residual in Fourier space has a part in it.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from deepinv.physics import MRI, Blur, BlurFFT, Denoising, Downsampling, Inpainting, LinearPhysics
from torch import Tensor
from tqdm import tqdm

from app import assemble
from app.commands.errors import USER_ERRORS
from app.evaluation.guide import lower_problem
from app.evaluation.reconstructor import reconstruct
from app.evaluation.simulation import simulation
from app.lower import lbfgs
from app.lower.solution import LowerSolution
from app.lower.stationary import certified_or_stationary
from app.models.files import PRETRAINED
from app.problem.operators import wrapped
from app.settings.tasks import Deblur, Denoise
from datasets.files import default_data_root
from datasets.image_sets import find_images
from datasets.images import read_image
from regularizers import BOUNDARIES, Adaptive, FieldOfExperts, InputConvexNetwork, Regularizer, Rescaled, TotalVariation
from regularizers.foe.functional import FieldOfExpertsFunctional

SECTIONS = ["deblur", "bright", "random"]
SINGLE = "charbonnier", "huber", "mcp", "log", "spline", "weak_spline"
POTENTIALS: list[dict[str, Any]] = [{"potential": name} for name in SINGLE]
POTENTIALS += [
    {"potential": name, "group_size": size, "group_norm": norm}
    for name, size, norm in [("huber", 4, "l2"), ("mcp", 2, "linf"), ("mcp", 4, "l2"), ("mcp", 4, "linf")]
]
SOLVE = certified_or_stationary(lbfgs.solve)
ROWS = 64  # of responses whose graph is held at a time
Case = tuple[str, float, LowerSolution]  # name, exact bound, what was stated
Forward = Callable[[Tensor], Tensor]


def exact_bound(r: Regularizer, forward: Forward, least: float, y: Tensor, ridge: float, x: Tensor) -> float:
    """Return ||grad h(x)|| / mu in float64. r: conditioned. forward, least: A and its lambda_min. x (1, C, H, W)."""
    z, r = getattr(r, "condition", None), deepcopy(r).double().requires_grad_(False)
    r = r if z is None else r.conditioned_on(z.double())  # type: ignore[operator]
    wide, x = y.to(torch.promote_types(y.dtype, torch.float64)), x.double().requires_grad_()
    misfit = (forward(x) - wide).abs().square().sum() / 2 + ridge / 2 * x.square().sum()
    misfit.backward()
    functional = r.functional()
    if isinstance(functional, FieldOfExpertsFunctional):
        for i in range(0, x.shape[2] + functional.filters.shape[-1], ROWS):
            of_rows(functional, x, i).backward()
    else:
        r.value(x).sum().backward()
    assert x.grad is not None
    mu = least + ridge - functional.curvature()[0]
    return float(x.grad.norm()) / mu if mu > 0 else math.inf


def of_rows(f: FieldOfExpertsFunctional, x: Tensor, first: int) -> Tensor:  # (1, C, H, W) -> []
    """Return the part of R(x) that these rows of responses make."""
    around = (f.filters.shape[-1] // 2,) * 4
    padded = x if f.boundary == "valid" else F.pad(x, around, mode=f.boundary)
    rows = padded[:, :, first : first + ROWS + f.filters.shape[-1] - 1]
    if rows.shape[2] < f.filters.shape[-1]:
        return 0 * x.sum()
    ones = x.new_ones(1, len(f.weights), 1, 1)
    g, m = (ones if plane is None else plane[:, :, first : first + ROWS] for plane in (f.contrasts, f.masks))
    values = f.potential.value(f.of_experts(g) * F.conv2d(rows, f.filters), f.weights, f.smoothings)
    return f.scale * (m * values / g**2).sum()


def shipped(name: str, root: Path, chosen: Callable[[bool], Iterable[Tensor]]) -> Iterator[Case]:
    """Yield a case for each clean image (1, C, H, W) that is chosen for grey or colour."""
    model, config = assemble.load(name, ["run.device=cpu"])
    simulated, problem = simulation(config, model, root), config.problem
    kernel = assemble.true_kernels(problem, root) if isinstance(problem, Deblur) else None
    for i, clean in enumerate(chosen(config.data.color)):
        y = simulated.measure(clean, (i,))
        lower = simulated.problem(y, (i,), clean.shape[1:])
        found = lower.solve(simulated.solver, simulated.accuracy)
        if isinstance(problem, Denoise):
            forward, least = (lambda x: x), 1.0
        elif kernel is None:  # of no proof that A loses nothing
            forward, least = simulated.measuring(clean.shape[1:], (i,)).promoted().forward, 0.0
        else:
            k = kernel(i).float().double()
            forward = BlurFFT(tuple(clean.shape[1:]), filter=k[None, None]).A
            least = float(torch.fft.fft2(k, s=clean.shape[2:]).abs().square().min())
        yield f"{name} {i}", exact_bound(lower.regularizer, forward, least, y, problem.ridge, found.x), found


def bright(side: int, color: bool) -> Tensor:  # -> (1, C, side, side)
    """Return a smooth image near 1 with texture: what a float32 gradient rounds most."""
    draw = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 1 + 2 * color, side // 32, side // 32, generator=draw), (side, side))
    return (0.85 + 0.13 * smooth + 0.02 * torch.rand(smooth.shape, generator=draw)).clamp(max=1)


def random_case(n: int) -> Case:
    """Return the case of random problem n: its task, regularizer, boundary, type of number, size and accuracy, each
    from a table of choices. A third of the masks has weights."""
    draw = torch.Generator().manual_seed(n)

    def pick(options):
        return options[int(torch.randint(len(options), (), generator=draw))]

    task, boundary = pick(["denoise", "blur", "inpaint", "mri", "direct", "superres"]), pick(BOUNDARIES)
    shape = (2 if task == "mri" else pick([1, 3]), 2 * pick(range(5, 12)), 2 * pick(range(5, 12)))
    k = torch.rand(1, 1, pick([3, 5]), 3, generator=draw)
    mask = torch.rand(1, *shape[1:], generator=draw).round(decimals=0 if n % 3 else 3)
    potential, smoothing = pick(POTENTIALS), pick([0.01, 0.1])
    field = FieldOfExperts(shape[0], 8, 3, **potential, boundary=boundary, weight=0.2, smoothing=smoothing)
    variation, network = TotalVariation(shape[0], smoothing=smoothing), InputConvexNetwork(shape[0], 4, 3)
    r = pick([field, field, field, Rescaled(field), variation, network, Adaptive(field, 4, masks=True)])
    for p in torch.nn.Module.parameters(r):
        p.data += 0.1 * torch.randn(p.shape, generator=draw)

    def forward(x: Tensor) -> Tensor:
        return physics(x.dtype).A(x)

    def physics(dtype: torch.dtype) -> LinearPhysics:
        kernel = (k / k.sum()).to(dtype)
        return {
            "denoise": Denoising, "blur": lambda: BlurFFT(shape, kernel), "direct": lambda: Blur(kernel, "circular"),
            "mri": lambda: MRI(mask.to(dtype)),
            "inpaint": lambda: Inpainting(shape, mask.to(dtype)),  # type: ignore[arg-type]
            "superres": lambda: Downsampling(shape, kernel, 2),
        }[task]()  # fmt: skip

    y = forward(pick([0.01, 1.0, 1.0, 255.0]) * torch.rand(1, *shape, generator=draw))
    ridge, accuracy = pick([1.0, 1e-1, 1e-3]), pick([1.0, 0.1, 1e-2, 1e-4])
    weakest = float(mask.double().square().min())
    least = {"denoise": 1.0, "inpaint": weakest, "mri": weakest}.get(task, 0.0)
    kind = pick([torch.float32, torch.float32, torch.float64] + [torch.bfloat16] * (not y.is_complex()))
    y, r = y.to(kind.to_complex() if y.is_complex() else kind), r.to(kind)
    operator = wrapped(physics(torch.float32), y if kind.itemsize > 2 else y.float(), shape)
    if isinstance(r, Adaptive) and kind.itemsize > 2:
        lower = lower_problem(r, operator, y, ridge, SOLVE)
        found, r = lower.solve(SOLVE, accuracy), lower.regularizer
    else:
        r = field.to(kind) if isinstance(r, Adaptive) else r
        found = reconstruct(r, y, operator, ridge=ridge, accuracy=accuracy, solver=SOLVE)
    return f"{n} {task} {kind} {[*potential.values()]}", exact_bound(r, forward, least, y, ridge, found.x), found


def violations(section: str, cases: Iterable[Case], each: bool = False) -> int:
    """Print how many certificates of a section hold, or each of them as it is found, and return how many do not."""
    ratios, violated, reached = [], 0, 0
    for name, exact, found in tqdm(cases, section, disable=None):
        stated = float(found.error_bound)
        holds = exact <= stated
        violated += not holds
        if each or not holds:
            print(f"{section} {name}: exact {exact!r} {'<=' if holds else '>'} stated {stated!r}", flush=True)
        ratios += [stated / exact] if exact > 0 and stated < math.inf else []
        reached += bool(found.converged)
    of = f"{len(ratios)} finite ones"
    of += f", stated/exact: least {min(ratios):.9f}, median {median(ratios):.6f}" if ratios else ""
    print(f"{section}: {violated} violations; {reached} converged; {of}", flush=True)
    return violated


def main() -> int:
    """Print how many certificates of each section hold; return 1 if one does not."""
    parser = argparse.ArgumentParser(prog="scripts/certificates", description=__doc__)
    for name, default in {"--images": 68, "--side": 1024, "--count": 10_000, "--first": 0}.items():
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--only", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--each", action="store_true", help="print every case, not only violations")
    parser.add_argument("--models", nargs="+", default=sorted(file.stem for file in PRETRAINED.glob("*.safetensors")))
    parser.add_argument("--data-root", type=Path, default=default_data_root())
    o = parser.parse_args()
    warnings.simplefilter("ignore")

    def photographs(color: bool) -> Iterator[Tensor]:
        paths = find_images("bsds500:bsd68", o.data_root, color).paths[: o.images]
        return (read_image(path, color)[None] for path in paths)

    sections = {
        "deblur": lambda: (c for m in o.models if "deblur" in m for c in shipped(m, o.data_root, photographs)),
        "bright": lambda: (c for m in o.models for c in shipped(m, o.data_root, lambda color: [bright(o.side, color)])),
        "random": lambda: map(random_case, range(o.first, o.first + o.count)),
    }
    try:
        return int(sum([violations(section, sections[section](), o.each) for section in o.only]) > 0)
    except USER_ERRORS as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
