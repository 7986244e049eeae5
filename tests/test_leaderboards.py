"""Our models under the public protocols of deepinv/benchmarks, and the files of a submission."""

import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from PIL import Image

from app import load
from app.evaluation.adapted import adapted
from regularizers import Channelwise
from scripts import leaderboards
from scripts.leaderboards import PROTOCOLS, measured_row, prepared, solver


def picture(size: int = 24) -> torch.Tensor:  # -> (1, 3, H, W)
    ramp = torch.linspace(0.2, 0.8, size)
    return torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), ramp.expand(size, size).flip(1)])[
        None
    ]


def test_an_adapted_model_is_the_same_image_seen_brighter():
    """With c = 1/2, F(x) = R(c x) / c^2 denoises y as R denoises y / 2, twice as bright."""
    y = picture() + 0.2 * torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    physics = Denoising(GaussianNoise(0.2))
    halved = adapted("foe-mcp-denoise-color-25", contrast=0.5)
    halved.accuracy = 1e-3
    found = halved.solution(y, physics)
    expected = load("foe-mcp-denoise-color-25", accuracy=5e-4)(y / 2, Denoising(GaussianNoise(0.1)))
    assert bool(found.converged)
    torch.testing.assert_close(found.x, 2 * expected, atol=1e-3, rtol=0)
    assert float(halved(y, physics).max()) <= 1


def test_an_amplitude_multiplies_the_regularizer_and_its_ridge():
    x = picture()[:, :1]
    plain, adaptation = load("foe-deblur-grey-gaussian"), adapted("foe-deblur-grey-gaussian", amplitude=3.0)
    assert adaptation.ridge == pytest.approx(3 * plain.ridge)
    torch.testing.assert_close(
        adaptation.regularizer.fn(x),
        3 * plain.regularizer.fn(x),  # type: ignore[operator]
    )
    apart = adapted("foe-deblur-grey-gaussian", amplitude=3.0, channels=3).regularizer
    assert isinstance(apart, Channelwise)
    by_channel = [adaptation.regularizer.fn(picture()[:, i : i + 1]) for i in range(3)]  # type: ignore[operator]
    torch.testing.assert_close(apart.fn(picture()), sum(by_channel))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_measured_and_better_than_its_backprojection(name, monkeypatch):
    monkeypatch.setattr(leaderboards, "SIDE", 48)
    protocol = PROTOCOLS[name]
    model = protocol.reconstructor()
    model.accuracy = 1.0
    row = measured_row(replace(protocol, outer=protocol.outer and 8), model, picture(48), 0)
    assert row.converged
    assert row.psnr > row.backprojected + 1
    again = measured_row(replace(protocol, outer=protocol.outer and 8), model, picture(48), 0)
    assert again.psnr == row.psnr, "an image has its own noise"


def test_images_are_resized_as_a_whole(tmp_path):
    """A picture that is black on the left and white on the right stays so, whatever its sides."""
    image = Image.new("L", (300, 100))
    image.paste(255, (150, 0, 300, 100))
    image.save(tmp_path / "halves.png")
    x = prepared(tmp_path / "halves.png")
    assert x.shape == (1, 3, 256, 256)
    assert float(x[..., :126].max()) == 0
    assert float(x[..., 130:].min()) == 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_file_of_a_submission_runs_as_benchopt_runs_it(tmp_path, monkeypatch, name):
    monkeypatch.setattr(leaderboards, "SIDE", 48)
    monkeypatch.setitem(sys.modules, "benchopt", SimpleNamespace(BaseSolver=object))
    file = tmp_path / "solver.py"
    file.write_text(solver(name))
    spec = importlib.util.spec_from_file_location("submitted", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    submitted = module.Solver()
    submitted.set_objective(train_dataset=None, physics=None)
    submitted.run(None)
    model = submitted.get_result()["model"]
    model.eval()
    physics, clean = PROTOCOLS[name].physics(torch.Generator().manual_seed(0)), picture(48)
    y, own = physics(clean), PROTOCOLS[name].reconstructor()
    assert torch.equal(model(y, physics), own(y, physics))


def test_the_command_prints_one_line_per_protocol_and_one_line_for_a_mistake(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (40, 40), (90, 120, 30)).save(tmp_path / "flat.png")
    monkeypatch.setattr(leaderboards, "SIDE", 32)
    name = "cbsd68_gaussian_denoising"
    command = ["leaderboards", name, "--images", str(tmp_path / "flat.png"), "--solvers", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    leaderboards.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"{name}/solvers/foe_mcp_denoise_color_25.py")
    assert (tmp_path / "out" / name / "solvers" / "foe_mcp_denoise_color_25.py").read_text() == solver(name)
    assert lines[-1].startswith(f"| {name} | foe-mcp-denoise-color-25 | learned at 25/255, told 25.5/255 |")
    for wrong in (["nothing"], [name, "--images", str(tmp_path / "none")], [name, "--count", "0"]):
        monkeypatch.setattr(sys, "argv", ["leaderboards", *wrong])
        with pytest.raises(SystemExit) as stopped:
            leaderboards.main()
        assert stopped.value.code == 2
        assert len([line for line in capsys.readouterr().err.splitlines() if "error: " in line]) == 1
