"""Nothing is learned from BSD68, on which results are reported."""

import shutil

import numpy as np
import pytest
from deepinv.physics import Denoising
from PIL import Image

from app.cli import COMPARISONS, PRESETS, resolve_comparison, resolve_experiment
from app.models.files import load_model, shipped
from app.problem.problem import Problem
from app.settings.options import Config
from datasets.held_out import copies, images_to_learn_from, of_bsd68
from datasets.image_sets import find_images
from datasets.images import ImageError
from datasets.likeness import ALIKE, likeness
from tests.test_cli import SMALL, refused


def configurations() -> dict[str, Config]:
    """Of everything that comes with the program and learns, or has learned."""
    found = {f"preset {p.stem}": resolve_experiment(p.stem, [])[1] for p in PRESETS.glob("*.toml")}
    for file in COMPARISONS.glob("*.toml"):
        for full in (False, True):
            variants = resolve_comparison([file.stem], [], full).variants
            found |= {f"{file.stem}, {label}, {full=}": config for label, config in variants.items()}
    return found | {f"model {name}": load_model(name)[1] for name in shipped()}


def sets() -> dict[str, str]:
    """Image set -> one of those that learn from it."""
    named = configurations().items()
    builtin = {"builtin:train": "scripts/demo", "builtin:test": "scripts/demo"}
    return builtin | {spec: name for name, c in named for spec in (c.data.images, c.data.validation)}


def test_every_preset_comparison_and_shipped_model_is_looked_at():
    names = configurations()
    assert sum(n.startswith("preset") for n in names) == len(list(PRESETS.glob("*.toml"))) > 0
    assert sum(n.startswith("model") for n in names) == len(shipped()) > 0
    assert {n.partition(",")[0] for n in names if ", full=" in n} == {p.stem for p in COMPARISONS.glob("*.toml")}


def test_no_file_that_is_learned_from_is_one_of_bsd68(data_root):
    reported = find_images("bsds500:bsd68", data_root, True).paths
    assert of_bsd68(reported) == list(reported)
    for spec, user in sets().items():
        paths = find_images(spec, data_root, color=False).paths
        assert not {p.resolve() for p in paths} & {p.resolve() for p in reported}, f"{user}: {spec}"
        assert of_bsd68(paths) == [], f"{user}: {spec}"


def test_copies_of_bsd68_are_recognised_and_no_other_image_is(data_root):
    """In other formats, sizes, colours and positions, and cut at their borders."""
    for path in find_images("bsds500:bsd68", data_root, True).paths[::4]:
        with Image.open(path) as image:
            assert min(map(likeness, copies(image))) > 0.8, path
    others = (
        find_images("bsds500:train+test+val32", data_root, True).paths + find_images("builtin", data_root, False).paths
    )
    assert of_bsd68(others) == []


def test_synthetic_images_are_not_taken_for_bsd68():
    """Few frequencies, or none: signs agree with some image by chance."""
    y, x = np.mgrid[:96, :128] / 128
    disk = np.hypot(x - 0.5, y - 0.4) < 0.3
    for values in (0 * x, x, x + y, np.sin(20 * x), np.exp(-9 * (x - 0.5) ** 2 - 9 * (y - 0.4) ** 2), disk, x > 0.5):
        image = Image.fromarray((200 * np.clip(values, 0, 1)).astype(np.uint8))
        assert likeness(image) < ALIKE
        assert likeness(image.resize((1, 1))) < ALIKE


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_copies_are_recognised_in_every_format_and_depth(data_root, tmp_path, suffix):
    image = Image.open(find_images("bsds500:bsd68", data_root, True).paths[7])
    image.crop((0, 0, 480, 320)).save(tmp_path / f"test001{suffix}")
    if suffix in (".png", ".tif"):
        Image.fromarray(257 * np.asarray(image.convert("L"), np.uint16)).save(tmp_path / f"deep{suffix}")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert [p.stem for p in of_bsd68(sorted(tmp_path.iterdir()))] in (["deep", "test001"], ["test001"])
    assert len(of_bsd68(tmp_path.iterdir())) == len(list(tmp_path.iterdir())) - 1


def test_learning_from_bsd68_is_refused_under_any_name(data_root, tmp_path):
    reported = find_images("bsds500:bsd68", data_root, True).paths
    shutil.copy(reported[3], tmp_path / "holiday.jpg")
    with Image.open(reported[5]) as image:
        image.convert("L").save(tmp_path / f"{reported[5].stem}.png")
        image.crop((0, 0, 50, 50)).save(tmp_path / "3096.png")
    for spec in ("bsds500:bsd68", "bsds500:val", "bsds500", "bsds500:train+bsd68", str(reported[0].parent)):
        with pytest.raises(ImageError, match="holds 68 images of BSD68"):
            images_to_learn_from("data.images", spec, data_root, color=False)
    with pytest.raises(ImageError, match="holds 2 images of BSD68"):
        images_to_learn_from("data.images", str(tmp_path), data_root, color=False)
    assert len(images_to_learn_from("data.images", str(tmp_path / "3096.png"), data_root, False).paths) == 1


@pytest.mark.parametrize("key", ["images", "validation"])
def test_training_and_validating_on_bsd68_end_in_one_line(capsys, data_root, tmp_path, key):
    arguments = ["train", "foe-denoise", *SMALL, "--out", tmp_path / "new", "--data-root", data_root]
    line = refused(capsys, *arguments, "--set", f"data.{key}=bsds500:bsd68")
    assert f"data.{key} = bsds500:bsd68 holds 68 images of BSD68" in line
    assert not (tmp_path / "new").exists()


def test_problems_in_python_refuse_bsd68(monkeypatch):
    monkeypatch.setattr("datasets.held_out.of_bsd68", lambda paths: list(paths)[:1])
    with pytest.raises(ImageError, match="clean = builtin:train holds 1 images of BSD68"):
        Problem(Denoising(), clean="builtin:train", noise_level=0.1)
