"""Our shipped models under the protocols of the public benchmarks of deepinv (github.com/deepinv/benchmarks).

    x clean: RGB in [0, 1], the whole image resized to 256 x 256 (bilinear, antialiased);    y = A x + noise

    cbsd68_gaussian_denoising    A = I, sigma 0.1                                     on CBSD68
    div2k_gaussian_deblurring    a 15 x 15 Gaussian of width 2, unknown border, sigma 0.05; 16 outer pixels left out
    div2k_inpainting_easy        30 % of the pixels are kept, no noise
    div2k_super_resolution_2x    circular bicubic filter, each second pixel, no noise               on DIV2K, validation

PSNR is deepinv's, which does not clip; our reconstructions are clipped to [0, 1]. The benchmarks also report LPIPS by
pyiqa, which is not computed here. Which noise and mask they draw is not stated there: here an image has its own seed.
No model was learned for these protocols; a table row says what stands in. Amplitudes (app/evaluation/adapted.py) are
the best of three on the first images of val32.

--solvers writes what a submission is made of: one file per protocol with a benchopt Solver.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from deepinv.loss.metric import PSNR
from deepinv.physics import Blur, Denoising, Downsampling, GaussianNoise, Inpainting, LinearPhysics
from deepinv.physics.functional.blur import gaussian_blur
from PIL import Image
from torch import Tensor

from app.commands.errors import USER_ERRORS
from app.evaluation.adapted import AdaptedReconstructor, adapted
from app.files import write_atomically
from app.settings.options import ConfigError
from datasets.files import default_data_root
from datasets.image_sets import find_images
from datasets.images import read_image
from figures.table import pipes, standard_error

SIDE = 256


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A public benchmark, and the nearest honest model of ours."""

    physics: Callable[[torch.Generator], LinearPhysics]
    model: str
    amplitude: float = 1.0
    contrast: float = 1.0
    channels: int | None = None
    stands_in: str  # how the model differs from one that was learned for the protocol
    outer: int | None = None  # pixels at the border that PSNR leaves out

    def reconstructor(self) -> AdaptedReconstructor:
        """Return the model that stands in. Raises ModelError."""
        return adapted(self.model, amplitude=self.amplitude, contrast=self.contrast, channels=self.channels)


PROTOCOLS = {
    "cbsd68_gaussian_denoising": Protocol(
        physics=lambda g: Denoising(GaussianNoise(0.1, rng=g)), model="foe-mcp-denoise-color-25",
        contrast=25 / 25.5, stands_in="learned at 25/255, told 25.5/255",
    ),
    "div2k_gaussian_deblurring": Protocol(
        physics=lambda g: Blur(filter=gaussian_blur((15, 15), 2.0), noise_model=GaussianNoise(0.05, rng=g)), outer=16,
        model="foe-deblur-grey-gaussian-25", amplitude=8.0, channels=3,
        stands_in="learned on grey images at 2.55/255 and width 1.6, amplitude 8",
    ),
    "div2k_inpainting_easy": Protocol(
        physics=lambda g: Inpainting((3, SIDE, SIDE), mask=0.3, rng=g),  # type: ignore[arg-type]
        model="foe-inpaint-grey-10",
        amplitude=0.04, channels=3, stands_in="learned on grey images at 10/255, told 2/255 (amplitude 0.04)",
    ),
    "div2k_super_resolution_2x": Protocol(
        physics=lambda g: Downsampling(factor=2, filter="bicubic"), model="foe-superres-grey-2.55",
        channels=3, stands_in="learned on grey images at 2.55/255",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image under a protocol."""

    psnr: float
    backprojected: float  # PSNR of A^T y
    converged: bool
    seconds: float


def prepared(path: Path) -> Tensor:  # -> (1, 3, 256, 256)
    """Return an image as the protocols take it. Raises OSError where it is none."""
    image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def measured_row(protocol: Protocol, model: AdaptedReconstructor, clean: Tensor, seed: int) -> Row:
    """Measure an image (1, 3, H, W) with the noise of this seed, and reconstruct it."""
    physics = protocol.physics(torch.Generator().manual_seed(seed))
    metric = PSNR(center_crop=None if protocol.outer is None else -protocol.outer)
    with torch.no_grad():
        y = physics(clean)
        start = time.perf_counter()
        solution = model.solution(y, physics)
        seconds = time.perf_counter() - start
        quality, backprojected = (float(metric(x, clean)) for x in (solution.x.clamp(0, 1), physics.A_adjoint(y)))
    return Row(psnr=quality, backprojected=backprojected, converged=bool(solution.converged), seconds=seconds)


def table(names: list[str], paths: tuple[Path, ...]) -> str:
    """Return one line for each protocol as a Markdown table."""
    heads = ("protocol", "model", "what stands in", "A^T y", "PSNR ± SE", "certified", "s/image")
    body = []
    for name in names:
        protocol = PROTOCOLS[name]
        model = protocol.reconstructor()
        rows = [measured_row(protocol, model, prepared(path), i) for i, path in enumerate(paths)]
        values = [row.psnr for row in rows]
        error = f" ± {standard_error(values):.2f}" if len(values) > 1 else ""
        body.append([
            name, protocol.model, protocol.stands_in, f"{fmean(r.backprojected for r in rows):.2f}",
            f"{fmean(values):.2f}{error}", f"{sum(r.converged for r in rows)}/{len(rows)}",
            f"{fmean(r.seconds for r in rows):.1f}",
        ])  # fmt: skip
    return pipes(heads, body)


SOLVER = '''"""{model} for the benchmark {name}: {stands_in}. Its reconstructions are certified to 0.1.

Install the program first (pip install -e CHECKOUT). Its folder `datasets` must be found before any installed package
of that name: put CHECKOUT first in PYTHONPATH.
"""

import torch
from benchopt import BaseSolver

from app.evaluation.adapted import adapted


class Solver(BaseSolver):
    name = "{model}"
    parameters = {{}}

    def set_objective(self, train_dataset=None, physics=None):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = adapted("{model}", amplitude={amplitude!r}, contrast={contrast!r}, channels={channels!r})
        self.model = model.to(device)
        self.model.device = device

    def run(self, _):
        pass

    def get_result(self):
        return dict(model=self.model)
'''


def solver(name: str) -> str:
    """Return the file of a submission to a benchmark: a benchopt Solver whose model is model(y, physics) -> x."""
    p = PROTOCOLS[name]
    return SOLVER.format(
        name=name, model=p.model, stands_in=p.stands_in, amplitude=p.amplitude, contrast=p.contrast, channels=p.channels
    )


def chosen(protocols: list[str], images: str, count: int | None, data_root: Path) -> tuple[list[str], tuple[Path, ...]]:
    """Return the protocols, all where none is named, and the first images. Raises ConfigError and ImageError."""
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise ConfigError(f"no protocol {unknown[0]!r}: known are {', '.join(PROTOCOLS)}")
    if count is not None and count < 1:
        raise ConfigError("--count must be at least 1")
    paths = find_images(images, data_root, True).paths[:count]
    for path in paths:
        read_image(path, True)
    return protocols or list(PROTOCOLS), paths


def main() -> None:
    """Print the table, and write the solvers where a folder is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help=f"of {', '.join(PROTOCOLS)} (default: all)")
    parser.add_argument("--images", default="bsds500:val32")
    parser.add_argument("--count", type=int, help="how many images, from the first (default: all)")
    parser.add_argument("--solvers", type=Path, metavar="FOLDER", help="write FOLDER/PROTOCOL/solvers/MODEL.py")
    parser.add_argument("--data-root", type=Path, default=default_data_root())
    o = parser.parse_args()
    try:
        names, paths = chosen(o.protocols, o.images, o.count, o.data_root)
        if o.solvers:
            for name in names:
                file = o.solvers / name / "solvers" / f"{PROTOCOLS[name].model.replace('-', '_')}.py"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, solver(name).encode())
                print(file)
        print(table(names, paths), end="")
    except (*USER_ERRORS, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
