"""Masks and kernels of the user: what was measured where, and what is refused because it does not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from app import assemble
from app.cli import main
from app.settings.options import Config
from app.settings.tasks import Deblur
from app.settings.toml import override
from datasets.blur_kernels import kernel_notes, read_kernel
from datasets.masks import MaskError, masks_of, read_mask
from tests.test_cli import refused

MODEL = "tv-denoise-grey-25"
INPAINT = ["--task", "inpaint", "--set", "problem.ridge=0.01"]
RANDOM = np.random.default_rng(0)
KNOWN = RANDOM.random((16, 20)) < 0.5
PIXELS = RANDOM.integers(60, 200, (16, 20), dtype=np.uint8)


@pytest.fixture
def files(tmp_path):
    """Two photographs with missing pixels, their masks, and a folder of them."""
    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    for name, known in (("a", KNOWN), ("b", ~KNOWN)):
        Image.fromarray(PIXELS * known).save(tmp_path / "in" / f"{name}.png")
        Image.fromarray(known).save(tmp_path / "masks" / f"{name}.png")
    np.save(tmp_path / "mask.npy", KNOWN)
    return tmp_path


def test_an_image_and_an_array_are_the_same_mask(files):
    expected = torch.from_numpy(KNOWN).float()
    Image.fromarray(np.dstack([0 * KNOWN, 255 * ~KNOWN]).astype(np.uint8)).save(files / "clear.png")  # over white
    np.savez(files / "two.npz", mask=KNOWN.astype(int), other=PIXELS)
    for spec in ("masks/a.png", "mask.npy", "clear.png", "two.npz:mask"):
        assert torch.equal(read_mask(str(files / spec)), expected), spec


def test_each_image_has_the_mask_of_its_name(files):
    images = {0: files / "in" / "b.png", 1: files / "in" / "a.png"}
    mask_of = masks_of(str(files / "masks"), images)
    assert torch.equal(mask_of(0, torch.Size(KNOWN.shape)), torch.from_numpy(~KNOWN).float())
    assert torch.equal(mask_of(1, torch.Size(KNOWN.shape)), torch.from_numpy(KNOWN).float())
    with pytest.raises(MaskError, match=r"no mask for the image c\.png"):
        masks_of(str(files / "masks"), {0: files / "c.png"})(0, torch.Size(KNOWN.shape))
    np.save(files / "masks" / "a.npy", KNOWN)
    with pytest.raises(MaskError, match=r"2 masks for the image a\.png"):
        mask_of(1, torch.Size(KNOWN.shape))


def test_weights_of_an_array_weigh_what_was_measured(files):
    weights = RANDOM.random((16, 20)) * KNOWN
    np.save(files / "weights.npy", weights)
    config = override(Config(), ["problem.task=inpaint", f"problem.mask={files / 'weights.npy'}", "run.device=cpu"])
    operator = assemble.operators(config, files)(torch.Size((1, 16, 20)), (0, 1))
    x = torch.rand(2, 1, 16, 20)
    torch.testing.assert_close(operator.forward(x), torch.from_numpy(weights).float() * x)
    assert operator.norm_squared == pytest.approx(weights.max() ** 2)
    assert operator.lambda_min == 0


def test_measured_images_are_reconstructed_from_what_the_mask_says(files, capsys):
    """What stands at missing pixels changes nothing, and a mask per image is that of its name."""
    filled = files / "filled"
    filled.mkdir()
    Image.fromarray(np.where(KNOWN, PIXELS, 7).astype(np.uint8)).save(filled / "a.png")
    command = ["reconstruct", MODEL, *INPAINT]
    for source, mask, out in (("in", "masks", "o"), ("filled", "mask.npy", "p")):
        assert main([*command, str(files / source), "--mask", str(files / mask), "--out", str(files / out)]) == 0
    results = [np.asarray(Image.open(files / out)) for out in ("o/a.png", "p/a.png", "o/b.png")]
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()
    assert abs(results[0].astype(float) - PIXELS)[KNOWN].mean() < abs(results[0].astype(float) - PIXELS)[~KNOWN].mean()


def _image(pixels):
    return lambda f: Image.fromarray(np.asarray(pixels)).save(f)


def _array(values):
    return lambda f: np.save(f, values)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("zero.png", _image(0 * PIXELS), "0 everywhere"),
        ("zero.npy", _array(0.0 * PIXELS), "0 everywhere"),
        ("small.npy", _array(KNOWN[1:]), "20 x 15 pixels does not fit an image of 20 x 16"),
        ("grey.png", _image(PIXELS), "neither black nor white"),
        ("large.npy", _array(PIXELS), "not from 0 to 1"),
        ("negative.npy", _array(KNOWN - 0.5), "not from 0 to 1"),
        ("complex.npy", _array(KNOWN + 0j), "not real numbers"),
        ("stack.npy", _array(KNOWN[None]), "not real numbers (H, W)"),
        ("nan.npy", _array(np.full(KNOWN.shape, np.nan)), "NaN"),
        ("bad.png", lambda f: f.write_bytes(b"no image"), "cannot read a mask"),
        ("none.png", lambda f: None, "no file"),
        ("empty", lambda f: f.mkdir(), "no mask for the image a.png"),
    ],
)
def test_masks_that_do_not_fit_are_refused(capsys, files, name, write, message):
    write(files / name)
    arguments = ["reconstruct", MODEL, files / "in" / "a.png", *INPAINT, "--mask", files / name, "--out", files / "o"]
    line = refused(capsys, *arguments)
    assert message in line and name in line
    assert not (files / "o").exists()


def test_a_mask_and_a_probability_exclude_each_other(capsys, files):
    both = ["--mask", files / "mask.npy", "--set", "problem.keep=0.3"]
    assert "problem.keep = 0.3 is not read here" in refused(
        capsys, "reconstruct", MODEL, files / "in", *INPAINT, *both, "--out", files / "o"
    )
    assert "problem.mask" in refused(
        capsys, "reconstruct", MODEL, files / "in", "--mask", "m.png", "--out", files / "o"
    )


@pytest.mark.parametrize("size", [(4, 4), (3, 4), (4, 3), (3, 3)])
def test_the_centre_of_a_kernel_is_the_pixel_that_is_stated(tmp_path, size):
    kernel = np.zeros(size)
    kernel[size[0] // 2, size[1] // 2] = 0.5
    np.save(tmp_path / "k.npy", kernel)
    notes = kernel_notes(str(tmp_path / "k.npy"), tmp_path)
    even = [note for note in notes if f"row {size[0] // 2}, column {size[1] // 2}" in note]
    assert len(even) == (size != (3, 3))
    assert [note for note in notes if note not in even] == [
        f"kernel {tmp_path}/k.npy: its sum is 0.5; it is divided by it"
    ]
    for border in ("circular", "valid"):
        settings = ["problem.task=deblur", f"problem.kernel={tmp_path}/k.npy", f"problem.border={border}"]
        operators = assemble.operators(override(Config(), [*settings, "run.device=cpu"]), tmp_path)
        x = torch.rand(1, 1, 12, 10)
        torch.testing.assert_close(operators(x.shape[1:], (0,)).forward(x), operators.seen_in(x))


def test_a_kernel_whose_centre_is_in_a_corner_is_told(tmp_path):
    for size in ((9, 9), (8, 10)):
        kernel = np.outer(*(np.exp(-((np.arange(n) - n // 2) ** 2)) for n in size))
        for shifted in (False, True):
            np.save(tmp_path / "k.npy", np.fft.ifftshift(kernel / kernel.sum()) if shifted else kernel / kernel.sum())
            assert any("in a corner" in note for note in kernel_notes(str(tmp_path / "k.npy"), tmp_path)) == shifted


def test_negative_entries_need_permission(capsys, tmp_path, files):
    kernel = np.array([[0, -0.1, 0], [-0.1, 1.4, -0.1], [0, -0.1, 0]])
    np.save(tmp_path / "k.npy", kernel)
    arguments = [MODEL, files / "in" / "a.png", "--task", "deblur", "--kernel", tmp_path / "k.npy"]
    assert "problem.signed_kernel = true" in refused(capsys, "reconstruct", *arguments, "--out", files / "o")
    signed = ["--set", "problem.signed_kernel=true", "--set", "problem.ridge=0.1", "--out", files / "o"]
    assert main([str(a) for a in ("reconstruct", *arguments, *signed)]) == 0
    torch.testing.assert_close(read_kernel(str(tmp_path / "k.npy"), tmp_path, True), torch.from_numpy(kernel))
    gaussian = ["--task", "deblur", "--set", "problem.signed_kernel=true", "--out", files / "p"]
    assert "problem.signed_kernel" in refused(capsys, "reconstruct", MODEL, files / "in", *gaussian)
    assert Deblur().signed_kernel is False


def test_what_was_done_to_a_kernel_is_printed(capsys, tmp_path, files):
    np.savez(tmp_path / "k.npz", k=np.ones((2, 3)))
    common = ["--task", "deblur", "--set", "problem.ridge=0.1", "--kernel", f"{tmp_path}/k.npz:k"]
    assert main(["reconstruct", MODEL, str(files / "in" / "a.png"), *common, "--out", str(files / "o")]) == 0
    expected = [f"kernel {tmp_path}/k.npz:k: 2 x 3 numbers; its centre is row 1, column 1, from 0",
                f"kernel {tmp_path}/k.npz:k: its sum is 6; it is divided by it"]  # fmt: skip
    assert capsys.readouterr().out.splitlines()[:2] == expected
    assert main(["evaluate", MODEL, "--images", str(files / "in" / "a.png"), *common, "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == expected
