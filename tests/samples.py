"""One figure of every kind from made-up data, as its callers would draw it."""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor

from figures import comparison, convergence, curves, filters, parameters, potentials, tradeoff
from figures.comparison import Panel
from figures.convergence import Descent
from figures.regions import Region
from figures.style import Look


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def rows(channels: int = 1, sizes=((40, 60), (60, 40)), methods: int = 2) -> list[dict[str, Panel]]:
    """Clean, degraded and methods, the last of which is wrong in rows 10 to 19, columns 12 to 21."""
    made, g = [], generator()
    for h, w in sizes:
        clean = torch.rand(channels, h, w, generator=g) * 0.2 + 0.4
        row = {"clean": Panel(clean), "degraded": Panel(clean - 0.7, 10.0, 0.1)}
        for i in range(methods):
            image = clean.clone()
            if i == methods - 1:
                image[:, 10:20, 12:22] += 0.3
            row[f"method-{i}"] = Panel(image, 28.126 - i, 0.8126 + i / 100)
        made.append(row)
    return made


def bank(experts: int = 10, channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    c = torch.randn(experts, channels, 5, 5, generator=generator())
    c = c / c.flatten(1).norm(dim=1)[:, None, None, None]
    weights = torch.linspace(0.1, 0.5, experts)[torch.randperm(experts, generator=generator())][:, None, None]
    return c, weights, 0.01 * weights


def run(n: int = 60, seed: int = 0) -> dict[str, list[float]]:
    ramp = [float(i + 1) for i in range(n)]
    falling = [5 / (i + 1) + 0.1 * seed for i in range(n)]
    held_out = [27 + i / n + seed / 10 if i % 10 == 9 else float("nan") for i in range(n)]
    return {
        "step": ramp, "loss": falling, "accuracy": [0.1] * n, "step_size": falling, "lower_iterations": ramp,
        "linear_iterations": ramp, "computations": [1000 * v for v in ramp], "seconds": [0.1 * v for v in ramp],
        "validation_psnr": held_out,
    }  # fmt: skip


def evaluated(shift: float = 0.0, images: int = 5) -> dict[str, dict[str, float]]:
    names = [f"image{i}" for i in range(images)]
    values = {"psnr": 28.0, "ssim": 0.8, "iterations": 40.0, "seconds": 0.5}
    return {m: {n: v * (1 + shift + 0.01 * i) for i, n in enumerate(names)} for m, v in values.items()}


def _comparison(look: Look) -> Figure:
    data = rows()
    regions = [[Region(10, 12, 10), Region(0, 0, 10)]] * len(data)
    return comparison.draw(data, regions, errors=True, look=look)


def _potentials(look: Look) -> Figure:
    t = torch.linspace(-1, 1, 101)
    w = torch.linspace(0.01, 0.1, 8)
    return potentials.draw(t, w[:, None] * t.square() / 2, w[:, None] * t, w, look)


def _parameters(look: Look) -> Figure:
    weights = torch.rand(6, 8, generator=generator()) + 0.1
    return parameters.draw(torch.tensor([0, 1, 2, 4, 8, 16]), weights, 0.1 * weights, look=look)


def _convergence(look: Look) -> Figure:
    bound = 10 * 0.9 ** torch.arange(50.0)
    return convergence.draw({"a": Descent(bound, bound / 3), "b": Descent(bound**2, bound**2 / 2)}, 0.1, look)


KINDS: dict[str, Callable[[Look], Figure]] = {
    "comparison": _comparison,
    "filters": lambda look: filters.draw(*bank(), look, frequency=True, common_range=True),
    "potentials": _potentials,
    "curves": lambda look: curves.draw({"tv": [run(), run(50, 1)], "foe": [run(80)]}, look=look),
    "parameters": _parameters,
    "convergence": _convergence,
    "tradeoff": lambda look: tradeoff.draw({"tv": evaluated(), "foe": evaluated(0.1)}, look=look),
}
