"""`scripts/benchmark` measures the numerical core side by side with other ways to do the same, in one process."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.memory import keep_freed_memory
from scripts.benchmarks import experiments
from scripts.benchmarks.measure import machine
from scripts.benchmarks.problems import MODELS, photographs, trained

EPS = (0.1, 0.01)  # true errors of the lower level
ACCURACY = 0.1  # certified ||x - argmin h|| of training and evaluation


def main() -> int:
    """Print the tables, and write them to a file where that is asked for. 2: a mistake of the user."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the tables there too")
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("APP_DATA_ROOT", "data")))
    parser.add_argument("--only", choices=list(TABLES), action="append", help="one table; may be given again")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: this machine has no CUDA device", file=sys.stderr)
        return 2
    if options.json and not options.json.parent.is_dir():
        print(f"error: {options.json.parent} is not a folder", file=sys.stderr)
        return 2
    torch.backends.cudnn.allow_tf32 = False
    keep_freed_memory()
    print(f"{machine(device)}\nfloat32; 48 trained filters of 7 x 7, 8 patches of 128 x 128 unless said otherwise")

    tables: dict[str, list[dict[str, Any]]] = {}
    for name in options.only or TABLES:
        for title, rows in TABLES[name](options.data_root, device):
            print(f"\n### {title}\n")
            kept = tables.setdefault(title, [])
            for row in rows:
                if not kept:
                    print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
                kept.append(row)
                print("| " + " | ".join(map(_cell, row.values())) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(device), "tables": tables}, indent=1))
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


Tables = list[tuple[str, experiments.Rows]]


def _operations(root: Path, device: torch.device) -> Tables:
    x = photographs(root, 8, 128, device)
    return [
        (f"Operations on the {name} regularizer", experiments.operations(trained(name, device), x)) for name in MODELS
    ]


def _lower(root: Path, device: torch.device) -> Tables:
    clean = photographs(root, 8, 128, device)
    title = "Lower level, {}: until the true error is eps"
    return [(title.format(name), experiments.lower_solves(trained(name, device), clean, EPS)) for name in MODELS]


def _hypergradient(root: Path, device: torch.device) -> Tables:
    clean = photographs(root, 8, 128, device)
    return [
        (f"Hypergradient, {name}", experiments.hypergradients(trained(name, device), clean, (1e-2, 1e-4)))
        for name in MODELS
    ]


def _step(root: Path, device: torch.device) -> Tables:
    clean = photographs(root, 8, 64, device)
    title = "Training step, {}, 8 patches of 64 x 64"
    return [(title.format(name), experiments.training_step(trained(name, device), clean, ACCURACY)) for name in MODELS]


def _shapes(root: Path, device: torch.device) -> Tables:
    return [("Scaling of the gradient, against plain convolutions", experiments.shapes(device))]


def _memory(root: Path, device: torch.device) -> Tables:
    regularizer = trained("convex", device)
    return [("Memory", experiments.memory(regularizer, lambda side: _enlarged(root, side, side, device)))]


def _images(root: Path, device: torch.device) -> Tables:
    return [
        (
            f"Whole images, {name}",
            experiments.whole_images(trained(name, device), lambda h, w: _enlarged(root, h, w, device)),
        )
        for name in MODELS
    ]


def _enlarged(root: Path, height: int, width: int, device: torch.device) -> Tensor:
    """Return an image (1, 1, height, width) of one photograph, repeated and mirrored.

    So it has detail at the scale of pixels at every size.
    """
    tile = photographs(root, 1, 256, device)
    tile = torch.cat([tile, tile.flip(3)], 3)
    tile = torch.cat([tile, tile.flip(2)], 2)
    return tile.repeat(1, 1, -(-height // 512), -(-width // 512))[..., :height, :width].contiguous()


TABLES: dict[str, Callable[[Path, torch.device], Tables]] = {
    "operations": _operations,
    "lower": _lower,
    "hypergradient": _hypergradient,
    "step": _step,
    "shapes": _shapes,
    "memory": _memory,
    "images": _images,
}

if __name__ == "__main__":
    raise SystemExit(main())
