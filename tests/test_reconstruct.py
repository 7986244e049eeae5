"""`reconstruct` of many files: nothing is lost, mixed or made twice; and tables whose rows are images."""

import csv
import os
import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from app.cli import main
from app.commands.reconstruct import heard
from app.drawing.comparison import draw_comparison, panels
from app.evaluation.tables import read_csv
from app.settings.options import ConfigError
from datasets.images import ImageError
from tests.test_cli import refused

MODEL = "tv-denoise-grey-25"
PIXELS = np.random.default_rng(0).integers(60, 200, (16, 20), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three images of one set."""
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.fromarray(np.roll(PIXELS, i)).save(tmp_path / "in" / f"{i}.png")
    return tmp_path / "in"


def reconstructed(*arguments) -> int:
    return main(["reconstruct", MODEL, *map(str, arguments)])


def test_what_was_said_before_an_error_is_not_lost(capsys):
    def one(i: int) -> None:
        print("estimated noise level")
        print("warning", file=sys.stderr)
        raise ImageError("a damaged image")

    with pytest.raises(ImageError):
        heard(one, 0)
    assert capsys.readouterr() == ("estimated noise level\n", "warning\n")
    assert heard(print, 3) == ("3\n", "")


def test_results_are_as_deep_as_their_images(tmp_path):
    dim = (100 + 2 * PIXELS.astype(np.uint16)).astype(np.uint16)
    files = {"deep.tif": dim, "deeper.png": dim, "eight.png": PIXELS}
    for name, pixels in files.items():
        Image.fromarray(pixels).save(tmp_path / name)
    tifffile.imwrite(tmp_path / "counts.tif", dim.astype(np.float32))
    np.save(tmp_path / "array.npy", dim.astype(np.int32))
    named = [tmp_path / name for name in (*files, "counts.tif", "array.npy")]
    assert reconstructed(*named, "--range", 0, 1000, "--out", tmp_path / "out") == 0
    deep = [np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in ("deep", "deeper")]
    assert all(x.dtype == np.uint16 and len(np.unique(x)) > 50 for x in deep)
    assert np.asarray(Image.open(tmp_path / "out" / "eight.png")).dtype == np.uint8
    for x in (tifffile.imread(tmp_path / "out" / "counts.tif"), np.load(tmp_path / "out" / "array.npy")):
        assert x.dtype == np.float32
        assert float(x.mean()) == pytest.approx(dim.mean(), rel=0.05)


def test_a_range_must_be_one_and_be_needed(capsys, tmp_path, folder):
    np.save(tmp_path / "a.npy", PIXELS)
    out = ["--out", tmp_path / "out"]
    assert "--range BLACK WHITE" in refused(capsys, "reconstruct", MODEL, tmp_path / "a.npy", *out)
    for limits in ((1, 0), (0, 0), ("nan", 1), (0, "inf")):
        line = refused(capsys, "reconstruct", MODEL, tmp_path / "a.npy", *out, "--range", *limits)
        assert "two numbers in order" in line
    assert "have their own" in refused(capsys, "reconstruct", MODEL, folder, *out, "--range", 0, 1)
    assert not (tmp_path / "out").exists()


def test_results_of_different_images_never_meet(capsys, tmp_path, folder):
    out = ["--out", tmp_path / "out"]
    Image.fromarray(PIXELS).save(folder / "0.tif")
    assert "0.png and from" in refused(capsys, "reconstruct", MODEL, folder, *out)
    (folder / "0.tif").unlink()
    Image.fromarray(PIXELS).save(folder / "0_degraded.png")
    assert "0_degraded.png would be overwritten" in refused(capsys, "reconstruct", MODEL, folder, "--degrade", *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", ["0.png", "1_degraded.png"])
def test_nothing_that_is_there_is_overwritten(capsys, tmp_path, folder, there):
    (tmp_path / "out").mkdir()
    os.symlink("nowhere", tmp_path / "out" / there)  # also where it is a link to nothing
    arguments = ["reconstruct", MODEL, folder, "--degrade", "--out", tmp_path / "out"]
    assert f"{there} would be overwritten" in refused(capsys, *arguments)
    assert os.listdir(tmp_path / "out") == [there]


def test_a_batch_that_stopped_goes_on(capsys, tmp_path, folder):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert reconstructed(folder, "--degrade", "--out", whole) == reconstructed(folder, "--degrade", "--out", out) == 0
    kept = out / "1_degraded.png"
    for lost in ("0.png", "0_degraded.png", "1.png"):
        (out / lost).unlink()
    before = {file: file.stat().st_mtime_ns for file in (kept, out / "2.png")}
    capsys.readouterr()
    assert reconstructed(folder, "--degrade", "--out", out, "--continue") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{out / '2.png'}: kept"
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {f.name: f.read_bytes() for f in whole.iterdir()}


def test_a_result_that_is_not_whole_and_an_image_itself_are_not_taken_for_results(capsys, tmp_path, folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").write_bytes(b"")
    arguments = ["reconstruct", MODEL, folder, "--continue", "--out"]
    assert "out/1.png is not a readable image" in refused(capsys, *arguments, tmp_path / "out")
    assert "would be overwritten" in refused(capsys, *arguments, folder)


def test_bad_images_are_told_before_any_is_reconstructed(capsys, tmp_path, folder):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "a\n.png").write_bytes(b"")
    sets = ["--set", "data.images=builtin:train", "--set", f"data.validation={folder}"]
    for command in (
        ["reconstruct", MODEL, folder, "--out", tmp_path / "out"], ["evaluate", MODEL, "--images", folder],
        ["train", "tv-denoise", *sets, "--out", tmp_path / "out"],
    ):  # fmt: skip
        capsys.readouterr()
        assert main([str(a) for a in command]) == 2
        head, *lines = capsys.readouterr().err.splitlines()
        assert head == "error: 2 of 4 images cannot be used:"
        assert "1.png" in lines[0] and r"a\n.png" in lines[1] and len(lines) == 2
    assert not (tmp_path / "out").exists()


def test_an_image_without_room_for_kernel_or_filters_is_named_before_the_work(capsys, folder):
    Image.fromarray(PIXELS[:5]).save(folder / "late.png")
    for model in ("foe-denoise-grey-25", "tv-deblur-grey-gaussian"):
        assert "late.png: " in refused(capsys, "evaluate", model, "--images", folder, "--quiet")


def test_rows_are_images_whatever_they_are_called(capsys, tmp_path, folder):
    for name in ("0.tif", "mean.png"):
        Image.fromarray(np.roll(PIXELS, 7)).save(folder / name)
    rows = tmp_path / "e.csv"
    assert main(["evaluate", MODEL, "--images", str(folder), "--csv", str(rows), "--quiet"]) == 0
    read = list(csv.DictReader(rows.open()))
    assert [row["image"] for row in read] == ["0.png", "0.tif", "1.png", "2.png", "mean.png", "mean"]
    values = read_csv(rows)["psnr"]
    assert len(values) == 5
    assert sum(values.values()) / 5 == pytest.approx(float(read[-1]["psnr"]))
    assert list(panels([MODEL], str(folder), None, [], tmp_path)) == [row["image"] for row in read[:-1]]
    assert list(panels([MODEL], str(folder), ["0.tif", "1"], [], tmp_path)) == ["0.tif", "1.png"]
    draw_comparison([MODEL], str(folder), 8, [], tmp_path, only=["0"], at=[("0.tif", (1, 2, 8)), ("0", (0, 0))])
    for missing in ("3", "0.bmp"):
        with pytest.raises(ConfigError, match="no such image"):
            draw_comparison([MODEL], str(folder), 8, [], tmp_path, at=[(missing, (0, 0))])


def test_older_evaluations_are_read_also_beside_new_ones(capsys, tmp_path):
    head, row = "image,psnr,ssim,psnr_degraded,error_bound,iterations,seconds", "30,0.8,20,0.1,10,1"
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text(f"{head}\ns,{row}\ns,3{row}\nmean,{row}\nmean,{row}\n")
    assert read_csv(old)["psnr"] == {"s": 30, "s (2)": 330, "mean": 30}
    old.write_text(f"{head}\na,{row}\nb,{row}\nmean,{row}\n")
    new.write_text(f"{head}\na.png,{row}\nb.jpg,{row}\nmean,{row}\n")
    assert main(["figure", "table", str(old), str(new), "--out", str(tmp_path / "t.md")]) == 0
    new.write_text(f"{head}\na.png,{row}\na.jpg,{row}\nmean,{row}\n")
    assert "evaluate again" in refused(capsys, "figure", "table", old, new, "--out", tmp_path / "u.md")


def test_images_below_the_window_have_no_ssim(capsys, tmp_path, folder):
    Image.fromarray(PIXELS[:10]).save(folder / "small.png")
    rows, latex = tmp_path / "e.csv", tmp_path / "t.tex"
    evaluate = ["evaluate", MODEL, "--csv", str(rows), "--latex", str(latex), "--quiet", "--images"]
    assert main([*evaluate, str(folder)]) == 0
    read = {row["image"]: row["ssim"] for row in csv.DictReader(rows.open())}
    known = [float(read[f"{i}.png"]) for i in range(3)]
    assert read["small.png"] == ""
    assert float(read["mean"]) == pytest.approx(sum(known) / 3)
    assert len(read_csv(rows)["ssim"]) == 3 and len(read_csv(rows)["psnr"]) == 4
    assert main([*evaluate, str(folder / "small.png")]) == 0
    assert "& - " in latex.read_text()
    assert {row["ssim"] for row in csv.DictReader(rows.open())} == {""}
    shown = panels([MODEL], str(folder / "small.png"), None, [], tmp_path)["small.png"]
    assert shown[MODEL].psnr and shown[MODEL].ssim is None


def test_results_of_others_are_found_by_name_and_only_then_by_stem(capsys, tmp_path, folder):
    others = tmp_path / "others"
    others.mkdir()
    for i in range(3):
        Image.fromarray(np.roll(PIXELS, i)).save(others / f"{i}.bmp")
    rows = panels([str(others)], str(folder), None, [], tmp_path)
    assert all(torch.equal(row["others"].image, row["clean"].image) for row in rows.values())
    Image.fromarray(PIXELS).save(folder / "0.tif")
    arguments = ["figure", "comparison", f"o={others}", "--images", folder, "--out", tmp_path / "f.png"]
    assert "no result for the image '0.png'" in refused(capsys, *arguments)
