"""Training on more synthetic JPEG images than the memory given to them holds, in a folder that is removed afterwards.

    peak memory(all images) - peak memory(FEW images)  <=  the memory given
    seconds to the first step of a second start        <=  SECONDS

And the time of a step that reads images on demand against one that has all images in memory from the start, in turns.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from app import assemble
from app.models.build import build_model
from app.settings.options import Config
from app.settings.toml import override
from app.training.fit import fit
from app.training.setup import training_problem
from datasets.files import default_data_root
from datasets.image_sets import find_images
from datasets.images import ImageError

WIDTH, HEIGHT = 480, 320
MOTIFS = 50  # pictures; the files differ in their comments
FEW = 64  # images of the baseline
SECONDS = 5.0  # within which the first step of a second start is asked for
MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one program did."""

    first_step: float  # seconds from its start
    computed: float  # of them, seconds of its threads on a core: what other programs do not lengthen
    peak: float  # bytes of memory


def make_images(folder: Path, count: int) -> None:
    """Write so many JPEG files, no two with the same bytes."""
    chance, motifs = np.random.default_rng(0), []
    for _ in range(min(MOTIFS, count)):
        coarse = Image.fromarray(chance.integers(0, 256, (24, 36, 3), dtype=np.uint8))
        fine = chance.normal(0, 8, (HEIGHT, WIDTH, 1))
        pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) + fine
        motifs.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    for n in range(len(motifs)):
        motifs[n].save(folder / f"{n:07}.jpg", quality=90)
    data = [(folder / f"{n:07}.jpg").read_bytes() for n in range(len(motifs))]
    for n in range(len(motifs), count):
        start, comment = data[n % len(motifs)], f"{n:012}".encode()
        (folder / f"{n:07}.jpg").write_bytes(start[:2] + b"\xff\xfe\x00\x0e" + comment + start[2:])


def train(images: Path | str, out: Path, cache: Path, *settings: str) -> Trained:
    """Train in a program of its own, whose index of images is under `cache`. Raises RuntimeError where that fails."""
    fixed = (f"data.images={images}", "data.validation=builtin:test", "data.patch_size=16", "run.validate_every=0")
    words = [word for one in (*fixed, "data.validation_crop=16", *settings) for word in ("--set", one)]
    command = [sys.executable, "-m", "app", "train", "tv-denoise", "--quiet", *words, "--out", str(out)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    began, first, computed = time.monotonic(), float("inf"), float("nan")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if first == float("inf") and _rows(out / "metrics.csv") > 0:
            first, computed = time.monotonic() - began, _seconds_on_cores(process.pid)
        if ended:
            break
        time.sleep(0.1)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"training ended with exit code {process.returncode}")
    return Trained(first_step=first, computed=computed, peak=used.ru_maxrss * 1024.0)


def _seconds_on_cores(process: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return float("nan")


def _rows(file: Path) -> int:
    return file.read_bytes().count(b"\n") - 1 if file.is_file() else 0


def larger_than_memory(count: int, megabytes: int, steps: int = 60, batch: int = 32) -> Iterator[str]:
    """Yield lines that say what training on `count` images takes, and whether it stays in bounds."""
    with tempfile.TemporaryDirectory(prefix="disk-") as scratch:
        images, out, cache = (Path(scratch) / name for name in ("images", "runs", "cache"))
        images.mkdir()
        make_images(images, count)
        size = sum(entry.stat().st_size for entry in os.scandir(images))
        decoded = count * WIDTH * HEIGHT * 3
        yield f"{count} JPEG images of {WIDTH} x {HEIGHT} in colour: {size / MB:.0f} MB, decoded {decoded / MB:.0f} MB"
        length = (f"run.steps={steps}", f"upper.batch_size={batch}", "data.color=true")
        held = train(images, out / "first", cache, f"data.memory={megabytes}", *length)
        yield f"first start, which reads each image once: first step after {_times(held)}"
        few = train(images, out / "few", cache, f"data.count={min(FEW, count)}", *length)
        yield f"baseline, {min(FEW, count)} of them: peak memory {few.peak / MB:.0f} MB"
        held = train(images, out / "second", cache, f"data.memory={megabytes}", *length)
        more = (held.peak - few.peak) / MB
        early = _word(held.first_step <= SECONDS)
        alone = train("builtin:train", out / "alone", cache, "run.steps=2", "upper.batch_size=4")
        yield f"the program alone, 8 photographs: first step after {_times(alone)}"
        yield f"second start: first step after {_times(held)} ({early} {SECONDS:g} s)"
        yield (
            f"{steps} steps of {batch} images: peak memory {held.peak / MB:.0f} MB, {more:.0f} MB above the baseline, "
            f"{megabytes} MB are given to images ({_word(more <= megabytes)} them)"
        )


def _times(trained: Trained) -> str:
    return f"{trained.first_step:.1f} s, {trained.computed:.1f} s on cores"


def _word(holds: bool) -> str:
    return "within" if holds else "NOT within"


def against_memory(data_root: Path, steps: int, *settings: str) -> Iterator[str]:
    """Yield lines for each epoch: how a step that reads on demand compares with one that has all images in memory."""
    try:
        images = "bsds500:train+test"
        count = len(find_images(images, data_root, False).paths)
    except ImageError:
        images, count = "builtin:train", len(find_images("builtin:train", data_root, False).paths)
    own = [f"data.images={images}", "data.validation=builtin:test", "run.device=cpu", *settings]
    config = override(Config(), own)
    training_problem(config, data_root)  # what is known of the images is found first, for both
    before, held = _begun(config, data_root, held=True)
    now, demanded = _begun(config, data_root, held=False)
    times = [_paired((held, demanded)) for _ in range(steps)]
    epoch = -(-count // config.upper.batch_size)  # type: ignore[union-attr]
    for name, part in (("first epoch", times[:epoch]), ("after it", times[epoch:])):
        if part:
            mine, theirs = (1e3 * median(t[n] for t in part) for n in (1, 0))
            ratio = median(t[1] / t[0] for t in part)
            yield f"{images}, {name}: {mine:.1f} ms a step, in memory {theirs:.1f}, ratio {ratio:.3f}"
    before, now = (begin + sum(t[n] for t in times[:epoch]) for n, begin in ((0, before), (1, now)))
    yield f"{images}, start and first epoch together: {now:.2f} s, in memory {before:.2f} s"


def _begun(config: Config, data_root: Path, held: bool) -> tuple[float, Iterator[object]]:
    """The seconds before the first step, and the steps."""
    began = time.perf_counter()
    problem = training_problem(config, data_root)
    for n in range(len(problem) if held else 0):
        problem.patches.image(n)
    return time.perf_counter() - began, fit(build_model(config), problem, assemble.method(config), steps=None)


def _paired(ways: tuple[Iterator[object], Iterator[object]]) -> tuple[float, float]:
    """The seconds of one step of each."""
    moments = [time.perf_counter()]
    for way in ways:
        next(way)
        moments.append(time.perf_counter())
    return moments[1] - moments[0], moments[2] - moments[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/disk", description=__doc__)
    parser.add_argument("images", type=int, nargs="?", default=20_000, help="default: %(default)s")
    parser.add_argument("megabytes", type=int, nargs="?", default=500, help="memory for images (default: %(default)s)")
    o = parser.parse_args()
    if o.images < 1 or o.megabytes < 1:
        parser.error("IMAGES and MEGABYTES must be at least 1")
    for line in larger_than_memory(o.images, o.megabytes):
        print(line, flush=True)
    for line in against_memory(default_data_root(), 100):
        print(line, flush=True)
