"""What README and the READMEs of the folders show is run as it stands."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli import main, resolve_experiment
from datasets.image_sets import find_images
from datasets.images import read_image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted(p for p in ROOT.rglob("README.md") if ".venv" not in p.parts)
SMALL = ["--set", "run.steps=2", "--set", "data.patch_size=16", "--set", "data.validation_crop=16",
         "--set", "regularizer.filters=4", "--set", "regularizer.filter_size=3", "--quiet"]  # fmt: skip


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def test_the_readme_is_short():
    assert len(README.encode()) <= 8 * 1024


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in blocks(README, "python"):
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "mine.safetensors").is_file()
    assert len(capsys.readouterr().out.splitlines()) == 20


def test_the_commands_of_the_readme_run(tmp_path, monkeypatch):
    """As they stand, but with two steps of a small regularizer."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (32, 24), 100).save("photograph.png")
    for line in blocks(README, "sh")[0].splitlines():
        if not line.startswith("python -m app"):
            assert line == "source .venv/bin/activate"
            continue
        arguments = shlex.split(line)[3:]
        small = {"train": SMALL, "resume": ["--set", "run.steps=3", "--quiet"]}.get(arguments[0], [])
        assert main([*arguments, *small]) == 0, line
    assert {"first.csv", "comparison.pdf", "results"} <= {p.name for p in tmp_path.iterdir()}


def test_the_walk_from_frequencies_to_a_figure_runs(tmp_path, monkeypatch):
    """As it stands, but with two steps on small patches, and k-space of a builtin photograph."""
    monkeypatch.chdir(tmp_path)
    x = read_image(find_images("builtin:test", tmp_path, False).paths[0], False)[0, 100:148, 200:240].numpy()
    mask = np.arange(40) % 3 == 2
    np.save("mask.npy", mask)
    np.save("kspace.npy", 500 * mask * np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x), norm="ortho")))
    small = [a for key in ("run.steps=2", "data.patch_size=16", "data.validation_crop=16") for a in ("--set", key)]
    (walk,) = blocks((ROOT / "app" / "problem" / "README.md").read_text(), "sh")
    for line in walk.splitlines():
        arguments = shlex.split(line)[3:]
        assert main([*arguments, *(small if arguments[0] == "train" else [])]) == 0, line
    assert {p.name for p in (tmp_path / "results").iterdir()} == {"kspace.png", "kspace.npy"}
    assert (tmp_path / "comparison.pdf").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_experiments_that_a_page_trains_exist(page):
    for line in re.findall(r"python -m app train (\S+)(?: |$)", page.read_text(), flags=re.M):
        if line.islower():
            resolve_experiment(line, [])


def test_the_page_of_shipped_models_is_what_its_command_prints(capsys):
    assert main(["models", "list", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "regularizers" / "pretrained" / "README.md").read_text()
