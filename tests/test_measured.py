"""Measurements of the user's own: what comes back is on their scale, and what does not fit is refused in one line."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from app.cli import main
from app.evaluation.noise_check import estimated_noise, noise_of_frequencies, noise_of_rays
from app.evaluation.raw import encoded, is_shifted
from app.problem.tasks import tomography
from tests.test_cli import refused

MODEL, ALL = "tv-denoise-grey-25", "foe-mcp-denoise-grey-all"
RANDOM = np.random.default_rng(0)
SMOOTH = 0.2 + 0.6 * np.outer(np.hanning(16), np.hanning(12))  # (H, W)
MASK = np.arange(12) % 3 != 1
MAPS = np.stack([np.exp(1j * np.linspace(0, n, 12)) * np.linspace(1, 0.2, 16)[:, None] for n in (1, 2)])
ANGLES = np.linspace(0, 180, 12, endpoint=False)
RIDGE = ["--set", "problem.ridge=0.3"]
MRI = ["--task", "mri", *RIDGE, "--mask", "mask.npy"]
TOMOGRAPHY = ["--task", "tomography", *RIDGE, "--set", "problem.angle_file=angles.npy"]


def spectrum(image: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, (-2, -1)), norm="ortho"), (-2, -1))


def ray_sums(image: np.ndarray) -> np.ndarray:
    """Sums along rays one pixel apart, as a scanner would report them."""
    operator = tomography(ANGLES.tolist(), torch.device("cpu"), torch.float64)(torch.Size((1, *image.shape)), (0,))
    return operator.forward(torch.from_numpy(image)[None, None])[0, 0].numpy() * len(ANGLES) ** 0.5


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with measurements of one image and what belongs to them; commands run in it."""
    monkeypatch.chdir(tmp_path)
    np.save("mask.npy", MASK)
    np.save("maps.npy", MAPS)
    np.save("angles.npy", ANGLES)
    np.save("k.npy", MASK * spectrum(SMOOTH))
    np.save("sino.npy", ray_sums(SMOOTH[:12]))
    np.save("coils.npy", MASK * spectrum(MAPS * SMOOTH))
    return tmp_path


def reconstruct(*arguments: str) -> int:
    return main(["reconstruct", MODEL, *arguments])


@pytest.mark.parametrize("image", ["real", "complex"])
@pytest.mark.parametrize("coils", [False, True])
def test_results_have_the_scale_of_the_frequencies(here, capsys, image, coils):
    """k of 1000 x gives 1000 times the result of x, whether the scale is found or given."""
    source = "coils.npy" if coils else "k.npy"
    np.save("thousand.npy", 1000 * np.load(source))
    more = ["--set", f"problem.image={image}", *(["--set", "problem.coil_maps=maps.npy"] if coils else [])]
    for name, out, scale in (("thousand.npy", "a", []), ("thousand.npy", "b", ["--range", "0", "1000"]),
                             (source, "c", ["--range", "0", "1"])):  # fmt: skip
        assert reconstruct(name, *MRI, *more, *scale, "--out", out) == 0
    found, given, small = (np.load(f"{out}/{name}") for out, name in
                           (("a", "thousand.npy"), ("b", "thousand.npy"), ("c", source)))  # fmt: skip
    assert np.iscomplexobj(found) == np.iscomplexobj(small) == (image == "complex")
    np.testing.assert_allclose(given, 1000 * small, rtol=1e-4, atol=0.5)
    assert abs(abs(found) - 1000 * SMOOTH).mean() < 150
    picture = np.asarray(Image.open("b/thousand.png"))
    assert picture.dtype == np.uint16
    np.testing.assert_allclose(picture / 65535, np.clip(abs(given) / 1000, 0, 1), atol=1e-4)
    assert "white is" in capsys.readouterr().out


def test_results_have_the_scale_of_the_ray_sums(here):
    np.save("thousand.npy", (1000 * np.load("sino.npy")).astype(np.int32))
    assert reconstruct("thousand.npy", *TOMOGRAPHY, "--range", "0", "1000", "--out", "a", "--format", "tif") == 0
    x = np.load("a/thousand.npy")
    assert x.shape == (12, 12) and abs(x - 1000 * SMOOTH[:12]).mean() < 150
    np.testing.assert_allclose(tifffile.imread("a/thousand.tif") / 65535, np.clip(x / 1000, 0, 1), atol=1e-4)


def test_each_slice_of_a_stack_has_a_result_and_one_scale_is_of_all(here, capsys):
    k = np.load("coils.npy")
    with h5py.File("v.h5", "w") as file:
        file["kspace"], file["mask"] = np.stack([k, 0.5 * k]), MASK
    coils = ["--set", "problem.coil_maps=maps.npy"]
    assert reconstruct("v.h5:kspace", *MRI, *coils, "--out", "a") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "v.h5, slice 0", "v.h5, slice 0", "a/v_000.png", "v.h5, slice 1", "a/v_001.png"
    ]  # fmt: skip
    first, second = (np.asarray(Image.open(f"a/v_00{i}.png")).astype(float) for i in range(2))
    assert second.mean() < 0.7 * first.mean()
    (here / "a" / "v_000.npy").unlink()
    assert reconstruct("v.h5:kspace", *MRI, *coils, "--out", "a", "--continue") == 0
    assert "a/v_001.png: kept" in capsys.readouterr().out
    np.save("images.npy", np.stack([SMOOTH, SMOOTH]))
    assert reconstruct("images.npy", "--range", "0", "1", "--out", "b") == 0
    assert sorted(p.name for p in (here / "b").iterdir()) == ["images_000.npy", "images_001.npy"]


def test_a_certificate_is_also_told_relative_to_the_image(here, capsys):
    assert reconstruct("k.npy", *MRI, "--range", "0", "1", "--out", "a") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    bound, percent = float(line.split("<= ")[1].split()[0]), float(line.split("(")[1].split()[0])
    size = np.linalg.norm(np.load("a/k.npy"))
    assert 100 * bound / size <= percent * 1.01 and percent <= 1.15 * 100 * bound / size


def test_noise_is_estimated_where_there_is_little_of_the_image():
    draw = torch.Generator().manual_seed(0)
    image = torch.from_numpy(0.5 * np.outer(np.hanning(64), np.hanning(64)))
    k = torch.view_as_real(torch.from_numpy(spectrum(image.numpy()))).movedim(-1, 0)[None]
    mask = (torch.rand(1, 1, 64, 64, generator=draw) < 0.5).double()
    y = (k + 0.03 * torch.randn(k.shape, generator=draw)) * mask
    assert noise_of_frequencies(y, mask) == pytest.approx(0.03, rel=0.15)
    assert noise_of_frequencies(y, torch.ones_like(mask)) == pytest.approx(0.03, rel=0.15)  # 0 was not measured
    rays = image[None, None] + 0.03 * torch.randn((1, 1, 64, 64), generator=draw)
    assert noise_of_rays(rays) == pytest.approx(0.03, rel=0.1)
    assert np.isnan(noise_of_rays(rays[..., :5, :5])) and np.isnan(
        noise_of_frequencies(y[..., :3, :3], mask[..., :3, :3])
    )


def test_the_noise_of_pixels_that_were_measured_is_not_that_of_what_stands_between():
    y = 0.5 + 0.03 * torch.randn(1, 1, 64, 64)
    mask = (torch.rand(1, 1, 64, 64) < 0.9).float()
    assert estimated_noise(y * mask, mask) == pytest.approx(0.03, rel=0.15)
    assert estimated_noise(y * mask + 0.3 * (1 - mask)) > 0.04
    assert np.isnan(estimated_noise(y * mask, (torch.rand(1, 1, 64, 64) < 0.3).float()))


def test_a_model_for_many_levels_is_set_to_the_noise_that_is_found(here, capsys):
    x = 0.5 + 0.2 * np.sin(np.arange(32) / 9)[:, None] * np.ones(32)
    for name, sigma in (("low", 0.001), ("middle", 0.1)):
        np.save(f"{name}.npy", x + sigma * RANDOM.normal(size=x.shape))
    assert main(["reconstruct", ALL, "low.npy", "middle.npy", "--range", "0", "1", "--out", "a"]) == 0
    low, _, middle, _ = capsys.readouterr().out.splitlines()
    assert "noise level estimated: 0.00" in low and "the model is set to 0.0196, the nearest" in low
    level = float(middle.split("estimated: ")[1])
    assert level == pytest.approx(0.1, rel=0.15)
    arguments = ["middle.npy", "--range", "0", "1", "--noise-level", str(level)]
    assert main(["reconstruct", ALL, *arguments, "--out", "b"]) == 0
    assert "estimated" not in capsys.readouterr().out
    np.testing.assert_allclose(np.load("a/middle.npy"), np.load("b/middle.npy"), atol=2e-3)
    assert reconstruct("middle.npy", "--range", "0", "1", "--out", "c") == 0
    assert "the model keeps its own, 0.098" in capsys.readouterr().out


def test_frequencies_with_dc_in_a_corner_are_told(here, capsys):
    np.save("corner.npy", np.fft.ifftshift(np.load("k.npy")))
    assert reconstruct("corner.npy", *MRI, "--out", "a") == 0
    assert "DC seems to be in a corner" in capsys.readouterr().out
    y = torch.view_as_real(torch.from_numpy(np.load("k.npy"))).movedim(-1, 0)[None]
    assert not is_shifted(y)
    assert len(encoded(torch.ones(1, 2, 4, 4), 2.0, ".png")) == 2


@pytest.mark.parametrize("coils", [False, True])
def test_a_mask_that_is_not_that_of_the_frequencies_is_told(here, capsys, coils):
    file, setting = ("coils.npy", ["--set", "problem.coil_maps=maps.npy"]) if coils else ("k.npy", [])
    settings = [*MRI, *setting]
    np.save(file, np.load(file) + 0.01 * MASK)  # noise: what is measured is not 0
    for name, mask, fits in (
        ("mask.npy", MASK, True),
        ("shifted.npy", np.roll(MASK, 1), False),
        ("more.npy", MASK | True, True),  # zeros are measured, too
        ("fewer.npy", MASK & (np.arange(12) > 2), True),  # numbers are left out
        ("other.npy", (np.arange(16)[:, None] % 3 != 1) & (np.arange(12) >= 0), False),
    ):
        np.save(name, mask)
        assert reconstruct(file, *settings, "--mask", name, "--out", name[:-4]) == 0
        told = capsys.readouterr().err
        assert ("of the mask are 0 in it" in told) != fits, name
        assert fits or f"warning: {file}: " in told


def test_an_inverted_mask_of_pixels_is_told(here, capsys):
    known = RANDOM.random((16, 12)) < 0.5
    for missing in (0, 255):
        Image.fromarray(np.where(known, 255 * SMOOTH, missing).astype(np.uint8)).save("a.png")
        for mask, fits in ((known, True), (~known, False)):
            Image.fromarray(mask).save("m.png")
            settings = ["--task", "inpaint", *RIDGE, "--mask", "m.png", "--out", f"{missing}{fits}"]
            assert reconstruct("a.png", *settings) == 0
            assert ("is the mask inverted" in capsys.readouterr().err) != fits


def test_a_range_that_is_not_that_of_the_numbers_is_told(here, capsys):
    for factor, fits in ((1, True), (255, False), (0.01, False)):
        tifffile.imwrite("a.tif", (factor * SMOOTH).astype(np.float32))
        assert reconstruct("a.tif", "--range", "0", "1", "--out", str(factor)) == 0
        assert ("times white (--range BLACK WHITE)" in capsys.readouterr().err) != fits


def test_lists_of_matlab_are_rows_or_columns(here):
    reconstruct("sino.npy", *TOMOGRAPHY, "--out", "list")
    np.save("angles.npy", ANGLES[None])
    reconstruct("sino.npy", *TOMOGRAPHY, "--out", "row")
    np.save("angles.npy", ANGLES[:, None])
    reconstruct("sino.npy", *TOMOGRAPHY, "--out", "column")
    reconstruct("k.npy", *MRI, "--out", "list")
    np.save("mask.npy", MASK[None])
    reconstruct("k.npy", *MRI, "--out", "row")
    for name in ("row/sino.npy", "column/sino.npy", "row/k.npy"):
        np.testing.assert_array_equal(np.load(name), np.load(Path("list") / Path(name).name))


def test_angles_in_radians_are_told(here, capsys):
    assert reconstruct("sino.npy", *TOMOGRAPHY, "--out", "a") == 0
    assert "radians" not in capsys.readouterr().out
    np.save("angles.npy", np.deg2rad(ANGLES))
    assert reconstruct("sino.npy", *TOMOGRAPHY, "--out", "b") == 0
    assert "angles angles.npy: from 0 to 2.88 degrees; are they in radians" in capsys.readouterr().out


def test_measured_files_are_evaluated_against_clean_images(here, capsys):
    """Measured by the program and written to files, they give the rows that the program gives."""
    for folder in ("clean", "measured", "valid"):
        (here / folder).mkdir()
    for name in ("a", "b"):
        pixels = RANDOM.integers(50, 200, (16, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(f"clean/{name}.png")
        np.save(f"measured/{name}.npy", MASK * spectrum(pixels / 255))
        np.save(f"valid/{name}.npy", pixels / 255)
    simulated = ["evaluate", MODEL, "--images", "clean", *MRI, "--noise-level", "0", "--quiet"]
    for out, more in (("simulated.csv", []), ("measured.csv", ["--measured", "measured"])):
        assert main([*simulated, *more, "--csv", out]) == 0
    rows = [list(csv.DictReader(Path(name).read_text().splitlines())) for name in ("simulated.csv", "measured.csv")]
    for one, other in zip(*rows, strict=True):
        assert one["image"] == other["image"] and float(one["psnr"]) == pytest.approx(float(other["psnr"]), abs=0.01)
    capsys.readouterr()
    deblur = ["--task", "deblur", "--kernel", "gaussian:3:0.3", *RIDGE, "--quiet"]
    assert main(["evaluate", MODEL, "--images", "clean", "--measured", "valid", *deblur]) == 0
    assert "valid/b.npy: noise level estimated" in capsys.readouterr().out
    (here / "measured" / "b.npy").unlink()
    assert "no measurement for the image b.png" in refused(capsys, *simulated, "--measured", "measured")
    np.save("measured/b.npy", np.ones((16, 13)) + 0j)
    assert "b.npy" in refused(capsys, *simulated, "--measured", "measured")
    assert "--measured" in refused(capsys, *simulated, "--range", "0", "1")


def test_measured_files_are_drawn_with_and_without_clean_images(here, capsys):
    (here / "clean").mkdir()
    Image.fromarray((255 * SMOOTH).astype(np.uint8)).save("clean/k.png")
    assert reconstruct("k.npy", *MRI, "--out", "results") == 0
    draw = ["figure", "comparison", MODEL, "results", "--measured", "k.npy", *MRI, "--crop", "8", "--dpi", "40"]
    assert main([*draw, "--out", "a.png"]) == 0
    assert main([*draw, "--images", "clean", "--range", "0", "1", "--errors", "--out", "b.png"]) == 0
    assert "--images" in refused(capsys, *draw, "--errors", "--out", "c.png")
    assert "k.npy" in refused(capsys, *draw, "--only", "none", "--out", "c.png")
    assert not (here / "c.png").exists()


BAD = {
    "a mask of another size": (MRI, {"mask.npy": MASK[1:]}, ["k.npy"], "mask.npy: 11 columns"),
    "a mask of 8 bits": (MRI, {"mask.npy": 255 * MASK}, ["k.npy"], "mask.npy: the numbers of a mask are from 0 to 1"),
    "a mask of zeros": (MRI, {"mask.npy": 0 * MASK}, ["k.npy"], "mask.npy: a mask must be finite, and measure"),
    "no mask": (["--task", "mri", *RIDGE], {}, ["k.npy"], "--mask FILE"),
    "real frequencies": (MRI, {"k.npy": SMOOTH}, ["k.npy"], "k.npy: k-space is complex"),
    "an axis": (MRI, {"k.npy": np.ones((2, 2, 16, 12), complex)}, ["k.npy"], "k.npy: (2, 2, 16, 12) is not the shape"),
    "coils without maps": (MRI, {"k.npy": np.ones((1, 2, 16, 12), complex)}, ["k.npy"], "problem.coil_maps"),
    "other coils": ([*MRI, "--set", "problem.coil_maps=maps.npy"], {"k.npy": np.ones((3, 16, 12), complex)}, ["k.npy"],
                    "k.npy: 3 x 16 x 12 numbers do not fit the operator, which measures 2 x 16 x 12"),
    "other maps": ([*MRI, "--set", "problem.coil_maps=maps.npy"], {"maps.npy": MAPS[:, 1:]}, ["coils.npy"], "maps.npy"),
    "real maps": ([*MRI, "--set", "problem.coil_maps=maps.npy"], {"maps.npy": MAPS.real}, ["coils.npy"],
                  "maps.npy: coil maps are a complex array"),
    "nan": (MRI, {"k.npy": np.full((16, 12), np.nan + 0j)}, ["k.npy"], "k.npy holds NaN"),
    "black": (MRI, {"k.npy": np.zeros((16, 12), complex)}, ["k.npy"], "k.npy: it gives an image that is black"),
    "a range with black": (MRI, {}, ["k.npy", "--range", "1", "2"], "BLACK must be 0"),
    "an image of frequencies": (MRI, {"a.png": SMOOTH}, ["a.png"], "a.png: it is an image, and mri measures none"),
    "a complex sinogram": (TOMOGRAPHY, {"sino.npy": np.ones((17, 12)) + 0j}, ["sino.npy"], "sino.npy: sums along rays"),
    "counts": (TOMOGRAPHY, {"sino.npy": np.ones((17, 12), int)}, ["sino.npy"], "sino.npy: int64 numbers have no scale"),
    "other angles": (TOMOGRAPHY, {"angles.npy": ANGLES[1:]}, ["sino.npy"], "sino.npy: a sinogram of 17 cells and 12"),
    "bad angles": (TOMOGRAPHY, {"angles.npy": np.stack([ANGLES, ANGLES])}, ["sino.npy"], "angles.npy must be a list"),
    "a complex image": ([], {"a.npy": np.ones((9, 9)) + 0j}, ["a.npy", "--range", "0", "1"], "a.npy: not a grey"),
    "an image of objects": ([], {"a.npy": np.array([{}])}, ["a.npy", "--range", "0", "1"], "a.npy"),
    "an image of text": ([], {"a.npy": np.array(["a"])}, ["a.npy", "--range", "0", "1"], "a.npy"),
    "a stack of counts": ([], {"a.npy": np.ones((9, 9, 9), int)}, ["a.npy"], "a.npy: pixels are int64"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_before_anything_is_written(here, capsys, name):
    settings, files, arguments, message = BAD[name]
    for file, values in files.items():
        Image.fromarray(values).convert("L").save(file) if file.endswith("png") else np.save(file, values)
    line = refused(capsys, "reconstruct", MODEL, *arguments, *settings, "--out", "out")
    assert message in line
    assert not (here / "out").exists()


def test_the_arrays_of_a_file_are_named_where_the_key_is_none_of_them(here, capsys):
    np.savez("v.npz", kspace=np.load("k.npy"), other=MASK)
    with h5py.File("v.h5", "w") as file:
        file["kspace"], file["mask"] = np.load("k.npy"), MASK
    for name in ("v.h5", "v.h5:image"):
        assert "it holds kspace, mask" in refused(capsys, "reconstruct", MODEL, name, *MRI, "--out", "out")
    data = (here / "v.npz").read_bytes()
    (here / "v.npz").write_bytes(data[: len(data) // 2])
    assert "v.npz" in refused(capsys, "reconstruct", MODEL, "v.npz:kspace", *MRI, "--out", "out")
