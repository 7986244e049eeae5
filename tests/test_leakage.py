"""Nothing is learned from BSD68, on which results are reported."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli import COMPARISONS, PRESETS, resolve_comparison, resolve_experiment
from app.models.files import load_model, shipped
from app.settings.options import Config
from datasets.held_out import images_to_learn_from, of_bsd68
from datasets.image_sets import find_images
from datasets.images import ImageError
from tests.test_cli import SMALL, refused

SIDE = 24  # of the images that are compared


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


def thumbnails(paths: list[Path]) -> np.ndarray:  # -> (N, 8, SIDE^2)
    """Grey, small, without mean, of norm 1; in the eight positions that turns and flips lead to."""
    out = []
    for path in paths:
        with Image.open(path) as image:
            image.draft("L", (2 * SIDE, 2 * SIDE))
            small = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), float)
        out.append([np.rot90(s, k).ravel() for s in (small, small.T) for k in range(4)])
    stack = np.array(out)
    stack -= stack.mean(2, keepdims=True)
    return stack / np.linalg.norm(stack, axis=2, keepdims=True)


def test_no_image_that_is_learned_from_looks_like_one_of_bsd68(data_root, tmp_path):
    """Largest correlation of thumbnails. A copy at half the size, turned, and brighter, is found."""
    reported = list(find_images("bsds500:bsd68", data_root, True).paths)
    learned = sorted({p for spec in sets() for p in find_images(spec, data_root, color=False).paths})
    with Image.open(reported[0]) as image:
        copy = image.resize((image.width // 2, image.height // 2)).rotate(90, expand=True).point(lambda v: v // 2 + 99)
        copy.save(tmp_path / "copy.png")
    targets = thumbnails(reported)[:, 0]
    likeness = np.max(thumbnails([*learned, tmp_path / "copy.png"]) @ targets.T, axis=(1, 2))
    assert likeness[-1] > 0.99
    assert likeness[:-1].max() < 0.95, learned[likeness[:-1].argmax()]


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
