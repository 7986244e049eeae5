"""Networks of deepinv beside our models: the same measurements, real files of weights, and one line where they fail."""

# ruff: noqa: F811 (fixtures)

import csv
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deepinv import models
from deepinv.optim import DPIR
from torch import Tensor, nn

from app import assemble
from app.cli import main
from app.drawing.comparison import panels
from app.evaluation import networks
from app.evaluation.networks import NETWORKS, Network, applied, load, physics_of
from app.evaluation.simulation import simulation
from app.problem.borders import with_border
from app.problem.quality import psnr
from app.problem.tasks import deblurring
from datasets.image_sets import ImageSet
from datasets.images import read_image
from tests.test_cli import refused
from tests.test_models import tiny_model  # noqa: F401  (fixtures)

LEVEL = 25 / 255


def written(name: str, folder: Path, model: nn.Module, channels: int = 1, level: float = LEVEL) -> nn.Module:
    """Write the state of a network as deepinv's file for `name`, and return the network."""
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / NETWORKS[name].file(channels, level))
    return model.eval()


def small_drunet(channels: int, weights: str | None, level: float = LEVEL) -> nn.Module:
    return models.DRUNet(channels, channels, (4, 4, 4, 4), 1, pretrained=weights)


def measured_by_hand(model: Path, image: Path, settings: list[str]) -> tuple[Tensor, Tensor]:
    learned, config = assemble.load(str(model), settings)
    simulated = simulation(config, learned, Path())
    clean = read_image(image, False)[None]
    return simulated.measure(clean, (0,)), simulated.seen_in(clean)


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open()))


def test_a_network_has_the_numbers_of_a_call_by_hand(tmp_path, tiny_model, photograph, capsys):
    torch.manual_seed(0)
    network = written("ffdnet", tmp_path / "weights", models.FFDNet(pretrained=None))
    table, markdown = tmp_path / "rows.csv", tmp_path / "table.md"
    arguments = ["--weights", str(tmp_path / "weights"), "--csv", str(table), "--markdown", str(markdown), "--quiet"]
    evaluated = ["evaluate", str(tiny_model), "--images", str(photograph), "--noise-level", "25/255"]
    assert main([*evaluated, "--baselines", "ffdnet", *arguments]) == 0
    y, clean = measured_by_hand(tiny_model, photograph, ["problem.noise_level=25/255"])
    assert y.shape[2] % 2 == y.shape[3] % 2 == 0, "FFDNet is not padded here"
    with torch.no_grad():
        expected = float(psnr(network(y, LEVEL), clean))
    row = rows_of(tmp_path / "rows-ffdnet.csv")[0]
    assert float(row["psnr"]) == pytest.approx(expected, abs=1e-5)
    assert int(row["parameters"]) == sum(p.numel() for p in network.parameters())
    assert row["error_bound"] == row["iterations"] == row["lpips"] == ""
    assert float(row["psnr_degraded"]) == float(rows_of(table)[0]["psnr_degraded"])
    line = next(line for line in markdown.read_text().splitlines() if "ffdnet" in line)
    assert "| none |  |  |" in line
    assert line.endswith(f"| {row['parameters']} |")
    assert "ffdnet (baseline): FFDNet" in capsys.readouterr().out


@pytest.mark.parametrize("border", ["circular", "valid"])
def test_dpir_knows_the_blur_of_the_measurements(tmp_path, tiny_model, photograph, monkeypatch, border):
    """By hand with the dense operator of the border, whose proximal map deepinv finds by iteration."""
    build = lambda c, w, s: DPIR(sigma=s, denoiser=small_drunet(c, w))  # noqa: E731
    monkeypatch.setitem(NETWORKS, "dpir", Network(
        about="DPIR", build=build, files=NETWORKS["dpir"].files, tasks=("deblur",), knows_operator=True,
    ))  # fmt: skip
    torch.manual_seed(0)
    drunet = written("dpir", tmp_path / "weights", small_drunet(1, None))
    settings = ["problem.task=deblur", "problem.ridge=0.01", f"problem.border={border}", "problem.noise_level=0.05"]
    table = tmp_path / "rows.csv"
    assert main([
        "evaluate", str(tiny_model), "--images", str(photograph), "--baselines", "dpir", "--csv", str(table),
        "--weights", str(tmp_path / "weights"), "--quiet", *(w for s in settings for w in ("--set", s)),
    ]) == 0  # fmt: skip
    y, clean = measured_by_hand(tiny_model, photograph, settings)
    learned, config = assemble.load(str(tiny_model), settings)
    simulated = simulation(config, learned, Path())
    operator = simulated.measuring(simulated.measuring.image_shape(y.shape[1:]), (0,))
    with torch.no_grad():
        x = DPIR(sigma=0.05, denoiser=drunet)(y, physics_of(operator))
    expected = float(psnr(simulated.seen_in(x), clean))
    assert float(rows_of(tmp_path / "rows-dpir.csv")[0]["psnr"]) == pytest.approx(expected, abs=1e-4)


def test_the_physics_of_an_unknown_border_has_its_adjoint_and_solves_the_proximal_problem():
    kernel = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    blur = deblurring(kernel / kernel.sum(), torch.device("cpu"), torch.float32)
    operator = with_border("valid", blur, (3, 3), torch.device("cpu"))(torch.Size((1, 8, 8)), (0,))
    basis = torch.eye(64).reshape(64, 1, 8, 8)
    a = operator.forward(basis).reshape(64, -1).T.double()
    physics, generator = physics_of(operator), torch.Generator().manual_seed(1)
    x, y = torch.rand(1, 1, 8, 8, generator=generator), torch.rand(1, 1, 6, 6, generator=generator)
    torch.testing.assert_close(physics.A_adjoint(y).flatten().double(), a.T @ y.flatten().double(), atol=1e-5, rtol=0)
    expected = torch.linalg.solve(2 * a.T @ a + torch.eye(64), 2 * a.T @ y.flatten().double() + x.flatten().double())
    found = physics.prox_l2(x, y, 2.0)
    torch.testing.assert_close(found.flatten().double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "channels"), [("dncnn", 1), ("dncnn", 3), ("ffdnet", 3), ("deal", 1), ("deal", 3)])
def test_files_of_deepinv_are_read_and_applied_in_grey_and_colour(tmp_path, name, channels):
    torch.manual_seed(0)
    level = 2 / 255 if name == "dncnn" else LEVEL
    network = {
        "dncnn": lambda: models.DnCNN(channels, channels, pretrained=None),
        "ffdnet": lambda: models.FFDNet(12, 96, 3, pretrained=None),
        "deal": lambda: models.DEAL(color=channels == 3, pretrained=None),
    }[name]()
    folder = tmp_path / "weights"
    written(name, folder, network.model if name == "deal" else network, channels, level)
    loaded = load(name, channels, level, folder)
    operator = deblurring(torch.ones(1, 1), torch.device("cpu"), torch.float64)(torch.Size((channels, 9, 12)), (0,))
    y = torch.rand(1, channels, 9, 12, dtype=torch.float64)
    x = applied(name, loaded, level)(y, operator)
    assert x.shape == y.shape
    assert x.dtype == y.dtype
    for a, b in zip(loaded.parameters(), network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["drunet", "gsdrunet", "scunet", "restormer", "swinir", "ram"])
def test_every_large_network_is_built_as_its_weights_need(tmp_path, monkeypatch, name):
    """The build gives deepinv a file and not a download, and its states have the names of the files."""
    asked = []

    def instead(*arguments, **options):
        asked.append(options["pretrained"])
        return nn.Identity()

    for architecture in ("DRUNet", "GSDRUNet", "SCUNet", "Restormer", "SwinIR", "RAM"):
        monkeypatch.setattr(networks.models, architecture, instead)
    for channels in NETWORKS[name].files:
        file = tmp_path / NETWORKS[name].file(channels, LEVEL)
        file.touch()
        load(name, channels, LEVEL, tmp_path)
        assert asked.pop() == str(file)


def test_sides_are_padded_to_what_a_network_takes_and_cut_again():
    """The mean of each block of 2 x 2, which FFDNet's unshuffling needs whole, of an odd image."""
    pool = lambda x, level: nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)  # noqa: E731
    y = torch.arange(15.0).view(1, 1, 3, 5)
    x = applied("ffdnet", pool, LEVEL)(y, None)  # type: ignore[arg-type]
    assert x.shape == y.shape
    assert float(x[0, 0, 0, 0]) == float(y[0, 0, :2, :2].mean())
    assert float(x[0, 0, 2, 4]) == float(y[0, 0, 2, 4])


def test_what_a_network_is_not_for_is_one_line(capsys, tiny_model, photograph, tmp_path):
    no = partial(refused, capsys, "evaluate", tiny_model, "--images", photograph, "--quiet", "--noise-level", "25/255")
    assert "--baselines dncnn has weights for noise level 2/255, and the noise level here is 25/255" in no(
        "--baselines", "dncnn"
    )
    assert "drunet has weights for noise level 0/255 to 50/255" in no("--baselines", "drunet", "--noise-level", "0.3")
    assert "scunet has weights for colour images, not for grey ones" in no("--baselines", "scunet")
    assert "swinir has weights for noise level 15/255 or 25/255 or 50/255" in no(
        "--baselines", "swinir", "--noise-level", "35/255"
    )
    assert "there is no file" in no("--baselines", "ffdnet", "--weights", tmp_path)
    assert "--weights is for --baselines of networks" in no("--baselines", "tv", "--weights", tmp_path)


def test_a_file_that_holds_no_such_weights_is_named_with_what_is_wrong(capsys, tiny_model, photograph, tmp_path):
    def no() -> str:
        arguments = ("--baselines", "ffdnet", "--weights", tmp_path, "--noise-level", "25/255", "--quiet")
        return refused(capsys, "evaluate", tiny_model, "--images", photograph, *arguments)

    file = tmp_path / NETWORKS["ffdnet"].file(1, LEVEL)
    for contents in (b"", b"no weights", b"PK\x03\x04"):
        file.write_bytes(contents)
        assert f"{file} does not hold its weights: " in no()
    torch.save({"0.weight": torch.zeros(3)}, file)
    assert "FFDNet: Missing key(s)" in no()
    torch.save(models.FFDNet(12, 96, 3, pretrained=None).state_dict(), file)
    assert "does not hold its weights" in no()
    torch.save([1, 2], file)
    assert "does not hold its weights" in no()


def test_without_a_network_connection_it_says_what_to_fetch(capsys, tiny_model, photograph, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing listens
    line = refused(
        capsys, "evaluate", tiny_model, "--images", photograph, "--baselines", "ffdnet", "--noise-level", "25/255",
        "--csv", tmp_path / "rows.csv",
    )  # fmt: skip
    assert "its weights cannot be downloaded" in line
    assert "fetch ffdnet_gray.pth elsewhere, and name its folder with --weights FOLDER" in line
    assert not list(tmp_path.glob("*.csv"))


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert a.shape[1] == 3
        return (a - b).abs().mean()


def test_lpips_is_a_column_where_its_package_is_installed(tmp_path, tiny_model, photograph, monkeypatch, capsys):
    fake = SimpleNamespace(LPIPS=lambda net, verbose: Difference())
    monkeypatch.setitem(sys.modules, "lpips", fake)
    table, tex, page = (tmp_path / name for name in ("rows.csv", "t.tex", "t.md"))
    command = ["evaluate", str(tiny_model), "--images", str(photograph), "--quiet", "--csv", str(table)]
    assert main([*command, "--latex", str(tex), "--markdown", str(page)]) == 0
    assert 0 < float(rows_of(table)[0]["lpips"]) < 1
    assert "LPIPS" in capsys.readouterr().out.splitlines()[0]
    assert "& LPIPS &" in tex.read_text()
    assert "| LPIPS |" in page.read_text()
    fake.LPIPS = lambda net, verbose: (_ for _ in ()).throw(OSError("no route to host"))
    assert main(command) == 0
    assert "LPIPS is left out: no route to host" in capsys.readouterr().out
    assert rows_of(table)[0]["lpips"] == ""


def test_a_comparison_has_a_column_for_each_baseline(tmp_path, tiny_model, photograph, monkeypatch, capsys):
    """Both of a classical method and of a network, as the table of `evaluate` knows them."""
    monkeypatch.setattr("app.evaluation.baselines._images_to_tune_on", lambda *_: ImageSet("one", (photograph,)))
    torch.manual_seed(0)
    weights, table = tmp_path / "weights", tmp_path / "rows.csv"
    written("ffdnet", weights, models.FFDNet(pretrained=None))
    asked = ["--images", str(photograph), "--noise-level", "25/255", "--weights", str(weights)]
    both = ["--baselines", "tv,ffdnet"]
    assert main(["evaluate", str(tiny_model), *asked, *both, "--csv", str(table), "--quiet"]) == 0
    settings = ["problem.noise_level=25/255"]
    row = panels([str(tiny_model)], str(photograph), None, settings, tmp_path, ("tv", "ffdnet"), weights)[
        photograph.name
    ]
    assert list(row)[3:] == ["tv", "ffdnet"]
    for name in ("tv", "ffdnet"):
        assert row[name].psnr == pytest.approx(float(rows_of(tmp_path / f"rows-{name}.csv")[0]["psnr"]), abs=1e-5)
    picture = ["--out", str(tmp_path / "c.png"), "--crop", "16", "--dpi", "50"]
    assert main(["figure", "comparison", str(tiny_model), *asked, *both, *picture]) == 0
    simulated = ["--images", str(photograph), "--measured", str(photograph)]
    assert main(["figure", "comparison", str(tiny_model), *simulated, *both, *asked[2:], *picture]) == 0
    no = partial(refused, capsys, "figure", "comparison")
    assert "two columns are called 'tv'" in no(f"tv={tiny_model}", *asked, *both, *picture)
    (tmp_path / "results").mkdir()
    assert "--baselines need a model beside them" in no(tmp_path / "results", *asked, *both, *picture)
    assert "--baselines scunet has weights for colour images" in no(
        tiny_model, *asked, *picture, "--baselines", "scunet"
    )
