"""Learning from pairs of clean and measured images: what is cut from both belongs together, exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app import assemble
from app.cli import main
from app.settings.options import Config, ConfigError
from app.settings.toml import override
from app.training.pairs import noise_of_pairs
from app.training.setup import training_problem
from datasets.image_sets import find_images
from datasets.images import read_image
from datasets.pairs import partners
from tests.test_cli import SMALL, refused

SIDE = 48
KERNEL = np.random.default_rng(1).random((5, 4))


@pytest.fixture
def folder(tmp_path):
    """Three clean images of different shapes, 8 bit."""
    (tmp_path / "clean").mkdir()
    (tmp_path / "measured").mkdir()
    for i, path in enumerate(find_images("builtin:train", tmp_path, False).paths[:3]):
        pixels = np.asarray(Image.open(path).convert("L"))[40 : 40 + SIDE, 60 : 60 + SIDE + 4 * i]
        Image.fromarray(pixels).save(tmp_path / "clean" / f"{i}.png")
    return tmp_path


def config_of(folder: Path, *settings: str, measured: str = "measured") -> Config:
    pairs = [f"data.measured={folder}/{measured}"] if measured else []
    own = [f"data.images={folder}/clean", *pairs, "data.patch_size=24", "run.device=cpu"]
    return override(Config(), [*own, *settings])


def measure(
    folder: Path, *settings: str, sigma: float = 0.0, same_size: bool = False, measured: str = "measured"
) -> None:
    """Write y = A x + noise of every whole clean image; same_size: as large as the image, as a camera does."""
    config = config_of(folder, *settings, measured=measured)
    operators = assemble.operators(config, folder, images=dict(enumerate(sorted((folder / "clean").iterdir()))))
    for i, path in enumerate(sorted((folder / "clean").iterdir())):
        x = read_image(path, False)[None]
        y = operators(x.shape[1:], (i,)).forward(x)[0, 0].numpy()
        if same_size and operators.seen is not None:
            f, (rows, columns) = config.problem.enlargement, operators.seen
            around = [(side.start // f, -(side.stop or 0) // f) for side in (rows, columns)]
            y = np.pad(y, around, constant_values=9)  # what lies behind the border is never looked at
        np.save(folder / "measured" / f"{path.stem}.npy", y + sigma * np.random.default_rng(i).normal(size=y.shape))


@pytest.mark.parametrize("same_size", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        ["problem.task=denoise"],
        ["problem.task=inpaint", "problem.mask=FOLDER/masks"],
        ["problem.task=deblur", "problem.kernel=FOLDER/k.npy", "problem.border=valid", "data.augment=false"],
        ["problem.task=deblur", "problem.border=valid"],
        ["problem.task=superres", "problem.border=valid", "data.augment=false"],
        ["problem.task=superres", "problem.border=valid", "problem.factor=3"],
    ],
    ids=lambda settings: "-".join(s.partition("=")[2].rpartition("/")[2] for s in settings),
)
def test_a_crop_of_a_measurement_is_the_measurement_of_the_crop(folder, settings, same_size):
    """Without noise, y - A x = 0 for every crop, turn and flip."""
    (folder / "masks").mkdir()
    np.save(folder / "k.npy", KERNEL / KERNEL.sum())
    for i in range(3):
        np.save(folder / "masks" / f"{i}.npy", np.random.default_rng(i).random((SIDE, SIDE + 4 * i)) < 0.5)
    settings = [s.replace("FOLDER", str(folder)) for s in settings]
    config = config_of(folder, *settings)
    if config.problem.enlargement > 1:  # whole blocks
        for path in (folder / "clean").iterdir():
            pixels, f = np.asarray(Image.open(path)), config.problem.enlargement
            Image.fromarray(pixels[: SIDE // f * f, : pixels.shape[1] // f * f]).save(path)
    measure(folder, *settings, same_size=same_size)
    problem = training_problem(config, folder)
    for step in range(6):
        sample = problem.sample(step, 3)
        torch.testing.assert_close(sample.y, sample.operator.forward(sample.target), atol=1e-5, rtol=0)
    assert noise_of_pairs(problem) < 1e-5


def test_the_noise_of_pairs_is_what_was_added(folder):
    measure(folder, sigma=0.05)
    assert noise_of_pairs(training_problem(config_of(folder), folder)) == pytest.approx(0.05, rel=0.05)


def test_turns_need_an_operator_that_turns_with_the_image(folder):
    np.save(folder / "k.npy", KERNEL / KERNEL.sum())
    settings = ["problem.task=deblur", f"problem.kernel={folder}/k.npy", "problem.border=valid"]
    measure(folder, *settings)
    with pytest.raises(ConfigError, match=r"data\.augment = false"):
        training_problem(config_of(folder, *settings), folder)


def test_the_interior_of_an_image_that_goes_on_at_the_other_side_is_learned_from(folder):
    """No crop looks at what wrapped round."""
    measure(folder, "problem.task=deblur", measured="")
    settings = ["problem.task=deblur", "problem.border=valid"]
    assert noise_of_pairs(training_problem(config_of(folder, *settings), folder)) < 1e-5


def test_a_regularizer_learns_from_pairs_and_knows_when_they_change(folder, capsys):
    measure(folder, sigma=0.1)
    out = folder / "run"
    sets = [f"data.images={folder}/clean", f"data.measured={folder}/measured", f"data.validation={folder}/clean"]
    command = [*SMALL, *(a for s in sets for a in ("--set", s))]
    assert main(["train", "foe-denoise", *command, "--out", str(out)]) == 0
    assert "noise level of the pairs: 0.0996 (y - A x); problem.noise_level = 0.098" in (out / "log.txt").read_text()
    np.save(folder / "measured" / "1.npy", np.zeros((SIDE, SIDE + 4)))
    assert "1.npy of data.measured changed" in refused(capsys, "resume", out, "--set", "run.steps=4")


def _bad(name: str):
    """Return what is done to a folder of pairs, and what is said of it."""
    rng = np.random.default_rng(0)
    return {
        "lacks": (lambda f: (f / "measured" / "1.npy").unlink(), "no measurement for the image 1.png"),
        "left": (lambda f: np.save(f / "measured" / "9.npy", np.zeros((9, 9))), "9.npy belongs to no image"),
        "twice": (lambda f: Image.new("L", (48, 48)).save(f / "measured" / "0.png"), "2 measurements for the image 0"),
        "size": (lambda f: np.save(f / "measured" / "1.npy", rng.random((48, 48))), "1.npy is 48 x 48"),
        "nan": (lambda f: np.save(f / "measured" / "1.npy", np.full((48, 52), np.nan)), "1.npy holds NaN"),
        "counts": (lambda f: np.save(f / "measured" / "1.npy", np.ones((48, 52), int)), "1.npy: int64 numbers"),
        "complex": (lambda f: np.save(f / "measured" / "1.npy", np.ones((48, 52)) + 1j), "1.npy: complex128 numbers"),
        "folder": (lambda f: (f / "measured").rename(f / "other"), "no folder"),
    }[name]


@pytest.mark.parametrize("name", ["lacks", "left", "twice", "size", "nan", "counts", "complex", "folder"])
def test_pairs_that_are_none_are_refused(folder, capsys, name):
    measure(folder)
    change, message = _bad(name)
    change(folder)
    sets = ["--set", f"data.images={folder}/clean", "--set", f"data.measured={folder}/measured"]
    line = refused(capsys, "train", "foe-denoise", *SMALL, *sets, "--out", folder / "run")
    assert message in line
    assert not (folder / "run").exists()


def test_keys_that_pairs_do_not_fit_are_refused(folder):
    for settings in (
        ["problem.task=inpaint"], ["problem.task=mri"], ["problem.task=deblur"],
        ["data.targets=noisy"], ["problem.noise_level=[0.1, 0.2]"],
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            config_of(folder, *settings)


def test_measurements_of_bsd68_are_not_learned_from(data_root, tmp_path, capsys):
    (tmp_path / "clean").mkdir()
    (tmp_path / "measured").mkdir()
    path = find_images("bsds500:bsd68", data_root, False).paths[0]
    Image.new("L", (481, 321), 100).save(tmp_path / "clean" / "a.png")
    Image.open(path).convert("L").save(tmp_path / "measured" / "a.png")
    sets = ["--set", f"data.images={tmp_path}/clean", "--set", f"data.measured={tmp_path}/measured"]
    assert "data.measured" in refused(capsys, "train", "foe-denoise", *SMALL, *sets, "--out", tmp_path / "run")


def test_one_file_is_the_partner_of_one_image(tmp_path):
    np.save(tmp_path / "b.npy", np.zeros((3, 3)))
    assert partners([Path("a.png")], str(tmp_path / "b.npy")) == [tmp_path / "b.npy"]
