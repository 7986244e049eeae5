"""Baselines solve what they say, see what the models see, and certify nothing."""

# ruff: noqa: F811 (fixtures)

import csv
import math

import numpy as np
import pytest
import torch

from app import assemble
from app.cli import main
from app.drawing.arguments import BASELINES
from app.evaluation import baselines as command
from app.evaluation import classical as baselines
from app.evaluation.simulation import simulation
from app.problem.quality import psnr
from app.problem.tasks import deblurring
from datasets.image_sets import ImageSet
from datasets.images import read_image
from tests.test_cli import refused
from tests.test_models import tiny_model  # noqa: F401  (fixtures)


def test_total_variation_lowers_a_step_by_weight_over_width():
    """ROF of a step: both halves of m columns keep their flatness and move towards each other by weight / m."""
    y = torch.zeros(1, 1, 32, 16, dtype=torch.float64)
    y[..., 8:] = 1.0
    x = baselines.total_variation(y, 0.4)
    expected = torch.where(y > 0.5, 1 - 0.4 / 8, 0.4 / 8)
    torch.testing.assert_close(x, expected.double(), atol=0.012, rtol=0)


def test_wiener_is_the_closed_form_of_dense_linear_algebra():
    """x = (K^T K + balance D^T D)^-1 K^T y on 8 x 8, with the K of our own blur, whose kernel has no symmetry."""
    kernel = torch.tensor([[1, 2, 0], [0, 3, 1], [1, 0, 0]], dtype=torch.float64) / 8  # the same numbers in float32
    blur = deblurring(kernel, torch.device("cpu"), torch.float64)(torch.Size((1, 8, 8)), (0,))
    laplacian = deblurring(
        torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64), torch.device("cpu"), torch.float64
    )(torch.Size((1, 8, 8)), (0,))
    basis = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    k, d = (op.forward(basis).reshape(64, 64).T for op in (blur, laplacian))
    y = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.solve(k.T @ k + 0.03 * d.T @ d, k.T @ y.flatten())
    torch.testing.assert_close(baselines.wiener(y, kernel, 0.03).flatten(), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("best", [0.011, 0.3, 7.9])
def test_the_golden_section_finds_a_maximum_on_a_log_scale_in_few_evaluations(best):
    asked = []

    def f(value: float) -> float:
        asked.append(value)
        return -((math.log(value) - math.log(best)) ** 2)

    assert baselines.golden_section(f, 0.01, 10.0) == pytest.approx(best, rel=0.05)
    assert len(asked) <= 13
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["tv", "nlm", "wavelet", "bm3d"])
def test_denoisers_denoise_in_grey_and_colour(name, channels):
    if name in baselines.PACKAGES:
        pytest.importorskip(baselines.PACKAGES[name])
    g = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.2, 0.8, 32).expand(1, channels, 24, 32)
    y = ramp + 0.1 * torch.randn(ramp.shape, generator=g)
    methods = {"tv": baselines.total_variation, "nlm": baselines.nonlocal_means,
               "wavelet": baselines.wavelet, "bm3d": baselines.bm3d}  # fmt: skip
    x = methods[name](y, 0.1)
    assert x.shape == y.shape
    assert x.dtype == y.dtype
    assert float((x - ramp).norm()) < 0.6 * float((y - ramp).norm())


def test_the_command_line_knows_the_baselines():
    assert tuple(command.TASKS) == BASELINES
    assert tuple(baselines.TASKS) == tuple(baselines.ABOUT)


@pytest.mark.parametrize(
    ("task", "names", "more"),
    [("denoise", "tv,nlm", []), ("deblur", "wiener", []), ("deblur", "wiener", ["--set", "problem.border=valid"])],
)
def test_baselines_see_the_measurements_of_the_models(
    capsys, tmp_path, monkeypatch, tiny_model, photograph, task, names, more
):
    monkeypatch.setattr(command, "_images_to_tune_on", lambda *_: ImageSet("one", (photograph,)))
    file, table = tmp_path / "rows.csv", tmp_path / "table.tex"
    arguments = ["evaluate", str(tiny_model), "--images", str(photograph), "--csv", str(file), "--latex", str(table)]
    task = ["--task", task, "--set", "problem.ridge=0.01", *more]
    assert main([*arguments, "--baselines", names, *task, "--quiet"]) == 0
    text = capsys.readouterr().out
    ours = list(csv.DictReader(file.open()))
    for name in names.split(","):
        rows = list(csv.DictReader((tmp_path / f"rows-{name}.csv").open()))
        assert [r["psnr_degraded"] for r in rows] == [r["psnr_degraded"] for r in ours]
        assert all(r["error_bound"] == r["iterations"] == "" for r in rows)
        assert len({r["psnr"] for r in (rows[0], ours[0])}) == 2
        line = next(line for line in text.splitlines() if line.startswith(f"{name} (baseline)  "))
        assert len(line.split()) == 7, "PSNR, SSIM and seconds alone: no certificate, no parameters"
        assert line.split()[-3] == line.split()[-1] == "none"
        assert f"{name} (baseline): scikit-image's" in text
        assert f"{name} (baseline) & " in table.read_text()
    assert "tuned on one" in text
    both = ["figure", "table", str(file), str(tmp_path / f"rows-{names.split(',')[0]}.csv")]
    assert main([*both, "--out", str(tmp_path / "t.md")]) == 0
    assert main([*both, "--metrics", "iterations,certified", "--out", str(tmp_path / "t.md")]) == 0
    assert (tmp_path / "t.md").read_text().splitlines()[-1].endswith("| none | none |")
    assert "no metric 'lpips'" in refused(capsys, *both, "--metrics", "lpips", "--out", tmp_path / "t.md")


def test_wiener_knows_which_kernel_measured_an_image(tmp_path, monkeypatch, tiny_model, photograph):
    (tmp_path / "kernels").mkdir()
    kernels = {f"k{n}": np.random.default_rng(n).random((3 + n % 3 * 2,) * 2) for n in range(1, 9)}
    np.savez(tmp_path / "kernels" / "Levin09.npz", **kernels)
    monkeypatch.setattr(command, "_images_to_tune_on", lambda *_: ImageSet("one", (photograph,)))
    model, config = assemble.load(str(tiny_model), ["problem.task=deblur", "problem.kernel=levin:all"])
    measured = simulation(config, model, tmp_path)
    method = command.prepare("wiener", {}, config, measured, tmp_path, True).method
    clean = read_image(photograph, False)[None]
    for image in (0, 3, 10):
        y = measured.measure(clean, (image,))
        quality = [float(psnr(method(y, i), clean)) for i in range(8)]
        assert quality.index(max(quality)) == image % 8


def test_the_tuned_parameter_is_the_best_on_the_images_of_tuning(tmp_path, tiny_model, photograph):
    model, config = assemble.load(str(tiny_model), [])
    measured = simulation(config, model, tmp_path)
    images = ImageSet("one", (photograph,))
    best = command._tune(
        lambda y, i, value: baselines.total_variation(y, value), images, False, measured, (0.01, 1.0), ""
    )
    clean = read_image(photograph, False)[None]
    y = measured.measure(clean, (0,))
    quality = {w: float(psnr(baselines.total_variation(y, w), clean)) for w in [best, *np.geomspace(0.01, 1, 40)]}
    assert quality[best] > max(quality.values()) - 0.02


def test_tuning_takes_builtin_photographs_where_bsds_is_absent(tmp_path, data_root):
    assert command._images_to_tune_on(data_root, False).name == "bsds500:val32"
    assert command._images_to_tune_on(tmp_path, True).name == "builtin:train"


def test_wrong_baselines_are_refused(capsys, monkeypatch, tiny_model, photograph):
    def no(*arguments: str) -> str:
        return refused(capsys, "evaluate", tiny_model, "--images", photograph, "--quiet", *arguments)

    assert "known are tv, wavelet, nlm, bm3d, wiener, drunet" in no("--baselines", "median")
    assert "tv is there to denoise; to deblur there is wiener, ram, dpir" in no("--baselines", "tv", "--task", "deblur")
    assert "to inpaint there is ram, dpir" in no("--baselines", "tv", "--task", "inpaint", "--set", "problem.ridge=0.1")
    assert "which is 0 here" in no("--baselines", "tv", "--noise-level", "0")
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert "pip install bm3d (the extra 'bm3d' of pyproject.toml)" in no("--baselines", "bm3d")
