"""`scripts/benchmark`: what the numerical core costs, side by side with other ways to do the same."""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.memory import keep_freed_memory
from datasets.files import default_data_root
from regularizers import FieldOfExperts
from scripts.benchmarks import experiments, scaling
from scripts.benchmarks.measure import machine
from scripts.benchmarks.problems import MODELS, photographs, trained
from scripts.benchmarks.processes import side_by_side
from scripts.benchmarks.ranks import shared_training

EPS = (0.1, 0.01)  # true errors of the lower level
ACCURACY = 0.1  # certified ||x - argmin h|| of training and evaluation


def main() -> int:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the tables there too")
    parser.add_argument("--data-root", type=Path, default=default_data_root())
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


Table = tuple[str, experiments.Rows]
Tables = Callable[[Path, torch.device], list[Table]]


def _of_models(title: str, side: int, rows: Callable[[FieldOfExperts, Tensor], experiments.Rows]) -> Tables:
    """Return a table for each model, of 8 patches of side x side."""

    def tables(root: Path, device: torch.device) -> list[Table]:
        x = photographs(root, 8, side, device)
        return [(title.format(name), rows(trained(name, device), x)) for name in MODELS]

    return tables


def _memory(root: Path, device: torch.device) -> list[Table]:
    return [("Memory", experiments.memory(trained("convex", device), lambda side: _enlarged(root, device, side, side)))]


def _images(root: Path, device: torch.device) -> list[Table]:
    enlarged = partial(_enlarged, root, device)
    return [(f"Whole images, {name}", experiments.whole_images(trained(name, device), enlarged)) for name in MODELS]


def _problems(root: Path, device: torch.device) -> list[Table]:
    enlarged = partial(_enlarged, root, torch.device("cpu"))
    return [("Other inverse problems", experiments.inverse_problems(enlarged, root))]


def _scaling(root: Path, device: torch.device) -> list[Table]:
    return [
        ("How the cost of a training step grows", scaling.growth(root, device)),
        ("What the plan rests on", scaling.assumptions(root)),
        (f"Plan: {scaling.PER_DEVICE} images of 64 x 64 on each device", scaling.plan(root, device)),
    ]


def _enlarged(root: Path, device: torch.device, height: int, width: int) -> Tensor:
    """Photographs side by side, mirrored where they end: detail at the scale of pixels at every size."""
    tile = photographs(root, 1, 256, device)
    tile = torch.cat([tile, tile.flip(3)], 3)
    tile = torch.cat([tile, tile.flip(2)], 2)
    return tile.repeat(1, 1, -(-height // 512), -(-width // 512))[..., :height, :width].contiguous()


TABLES: dict[str, Tables] = {
    "operations": _of_models("Operations on the {} regularizer", 128, experiments.operations),
    "lower": _of_models(
        "Lower level, {}: until the true error is eps", 128, partial(experiments.lower_solves, accuracies=EPS)
    ),
    "hypergradient": _of_models("Hypergradient, {}", 128, partial(experiments.hypergradients, targets=(1e-2, 1e-4))),
    "step": _of_models(
        "Training step, {}, 8 patches of 64 x 64", 64, partial(experiments.training_step, accuracy=ACCURACY)
    ),
    "shapes": lambda _, device: [("Scaling of the gradient, against plain convolutions", experiments.shapes(device))],
    "groups": lambda _, device: [("Groups of four responses, against single ones", experiments.groups(device))],
    "memory": _memory,
    "images": _images,
    "problems": _problems,
    "scaling": _scaling,
    "processes": lambda *_: [("Two processes side by side", side_by_side())],
    "ranks": lambda *_: [("Training shared out among processes", shared_training())],
}

if __name__ == "__main__":
    raise SystemExit(main())
