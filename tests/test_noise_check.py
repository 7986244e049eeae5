"""Noise levels mean what the user thinks: on the scale [0, 1], what a model was learned at, what an image has."""

import warnings

import deepinv
import numpy as np
import pytest
import torch
from PIL import Image

from app import Problem, load
from app.cli import main
from app.evaluation.noise_check import FACTOR, TEXTURE, estimated_noise, learned_levels
from app.problem.problem import ProblemError
from datasets.image_sets import find_images
from datasets.images import read_image
from tests.conftest import ROOT
from tests.test_cli import refused


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "tv-denoise", "--set", "problem.noise_level=25"],
        ["train", "tv-denoise", "--set", "problem.noise_level=[5/255, 25]"],
        ["evaluate", "tv-denoise-grey-25", "--images", "builtin:test", "--noise-level", "25"],
        ["reconstruct", "tv-denoise-grey-25", "builtin:test", "--out", "o", "--degrade", "--noise-level", "25"],
        [
            "figure",
            "comparison",
            "tv-denoise-grey-25",
            "--out",
            "o.png",
            "--images",
            "builtin:test",
            "--noise-level",
            "25",
        ],
        ["models", "ship", "tv-denoise-grey-25", "--noise-levels", "15/255", "25"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_level_of_another_scale_is_refused_with_the_one_that_was_meant(capsys, arguments):
    assert "problem.noise_level = 25 is 25 times white; did you mean 25/255?" in refused(capsys, *arguments)


def test_a_level_above_white_is_refused_from_python_unless_measurements_are_that_large():
    clean = torch.rand(1, 1, 8, 8)
    for level in (25.0, (5.0, 25.0)):
        with pytest.raises(ProblemError, match="did you mean 25/255"):
            Problem(deepinv.physics.Denoising(), clean=clean, noise_level=level)
    assert Problem(deepinv.physics.Denoising(), clean=clean, noise_level=1.0)
    scaled = deepinv.physics.LinearPhysics(A=lambda x: 100 * x, A_adjoint=lambda y: 100 * y)
    assert Problem(scaled, clean=clean, noise_level=25.0)


def test_a_model_of_one_level_warns_at_another(capsys, tmp_path, photograph):
    run = ["--images", str(photograph), "--quiet"]
    assert main(["evaluate", "tv-denoise-grey-25", *run, "--noise-level", "20/255"]) == 0
    expected = "tv-denoise-grey-25 was learned at noise level 25/255 and is used at 20/255; "
    assert capsys.readouterr().err == f"warning: {expected}foe-mcp-denoise-grey-all is for all levels\n"
    for model, level in (("tv-denoise-grey-25", "25/255"), ("foe-mcp-denoise-grey-all", "20/255")):
        assert main(["evaluate", model, *run, "--noise-level", level]) == 0
        assert capsys.readouterr().err == ""


def test_a_deepinv_reconstructor_warns_where_the_physics_has_another_level():
    model, y = load("tv-denoise-grey-25"), torch.rand(1, 1, 12, 12)
    with pytest.warns(UserWarning, match="learned at noise level 25/255 and is used at 50/255"):
        model(y, deepinv.physics.Denoising(deepinv.physics.GaussianNoise(50 / 255)))
    with warnings.catch_warnings(action="error"):
        model(y, deepinv.physics.Denoising(deepinv.physics.GaussianNoise(25 / 255)))
        model(y, deepinv.physics.Denoising(deepinv.physics.PoissonNoise(0.1)))
    assert learned_levels("foe-mcp-denoise-grey-all") is None


@pytest.mark.parametrize("level", [15, 25, 50])
def test_the_noise_of_photographs_is_estimated_within_the_stated_factor(level):
    for path in find_images("builtin:train", ROOT, False).paths[:4]:
        x = read_image(path, False)[None, :, :256, :256]
        y = (255 * (x + level / 255 * torch.randn(x.shape))).round().clip(0, 255) / 255
        found = 255 * estimated_noise(y)
        assert level / FACTOR <= found <= ((FACTOR * level) ** 2 + (255 * TEXTURE) ** 2) ** 0.5, path


def test_noise_that_is_not_what_is_assumed_is_reported_for_measured_images_alone(capsys, tmp_path):
    noise = np.random.default_rng(0).normal(0, 50, (64, 64))
    Image.fromarray((128 + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    command = ["reconstruct", "tv-denoise-grey-25", str(tmp_path / "a.png"), "--out"]
    assert main([*command, str(tmp_path / "o")]) == 0
    assert "a.png: noise of about 48/255 was estimated, 25/255 is assumed" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "p"), "--degrade"]) == 0
    assert main([*command, str(tmp_path / "q"), "--noise-level", "50/255"]) == 0
    assert "estimated" not in capsys.readouterr().err
