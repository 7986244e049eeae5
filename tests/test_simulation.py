"""Bounds, shapes and images of simulated measurements, on the grid and with the kernel of every image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app import assemble
from app.evaluation import assess
from app.evaluation.simulation import Simulation, simulation

ROOT = Path("data")


def simulated(model: str, *settings: str, root: Path = ROOT) -> Simulation:
    loaded, config = assemble.load(model, ["run.device=cpu", *settings])
    return simulation(config, loaded, root)


@pytest.mark.parametrize("task", ["superres", "inpaint", "deblur"])
def test_the_lower_level_lives_on_the_grid_of_the_image(task):
    s = simulated("tv-deblur-grey-gaussian", f"problem.task={task}")
    clean = torch.rand(1, 1, 24, 18)
    y = s.measure(clean, (0,))
    lower = s.problem(y, (0,))
    assert lower.operator.image_shape == clean.shape[1:] == s.as_image(y, (0,)).shape[1:]
    assert s.bounds(clean.shape[1:], (0,)) == lower.energy().bounds


def test_the_bounds_of_a_card_are_those_of_every_image_on_its_own_grid_and_with_its_own_kernel(tmp_path, monkeypatch):
    """Of levin:all the kernels take turns, and of super-resolution the grid is that of the clean image."""
    (tmp_path / "kernels").mkdir()
    kernels = {f"k{n}": np.random.default_rng(n).random((3, 3)) ** n for n in range(1, 9)}
    np.savez(tmp_path / "kernels" / "Levin09.npz", **kernels)
    for i, size in enumerate([(24, 20), (20, 24), (24, 20)]):
        pixels = np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(assess, "evaluate", lambda *_: iter(()))
    seen: dict[str, tuple[float, float]] = {}
    monkeypatch.setattr(assess, "assessment", lambda *a: seen.update(bounds=a[4]) or {})
    for settings in (["problem.kernel=levin:all"], ["problem.task=superres"]):
        assess.assess("tv-deblur-grey-gaussian", str(tmp_path), settings, tmp_path, True)
        s = simulated("tv-deblur-grey-gaussian", *settings, root=tmp_path)
        clean = [s.read(tmp_path / f"{i}.png", False) for i in range(3)]
        each = [s.problem(s.measure(c, (i,)), (i,)).energy().bounds for i, c in enumerate(clean)]
        assert seen["bounds"] == (min(mu for mu, _ in each), max(largest for _, largest in each))
