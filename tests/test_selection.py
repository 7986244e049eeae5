"""What a run hands over: running means, the best on held-out images, and an early end."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.cli import main
from app.training.selection import Selection, swapped_in
from tests.test_training import ARGUMENTS, metrics, start, wait_for_step


def test_running_mean_is_the_mean_within_its_window_and_forgets_beyond():
    path = [torch.tensor([float(k)]) for k in range(1, 9)]
    selection = Selection(4, False)
    for k, theta in enumerate(path, 1):
        selection.note(k, [theta])
        if k <= 4:
            assert torch.allclose(selection.mean[0], torch.stack(path[:k]).mean(0))
    expected = torch.tensor([2.5])
    for theta in path[4:]:
        expected = expected + (theta - expected) / 4
    assert torch.allclose(selection.chosen([path[-1]])[0], expected)


def test_best_survives_later_parameters_and_a_checkpoint():
    selection = Selection(0, True)
    for psnr, value in ((20.0, 1.0), (22.0, 2.0), (21.0, 3.0), (21.5, 4.0)):
        selection.judge(psnr, [torch.tensor([value])])
    restored = Selection(0, True)
    restored.restore(selection.tensors(), torch.device("cpu"))
    for s in (selection, restored):
        assert s.chosen([torch.tensor([4.0])])[0] == 2.0
        assert s.without_progress == 2


def test_swapped_in_ends_where_it_began():
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(RuntimeError), swapped_in([p], [torch.zeros(2)]):
        assert p.sum() == 0
        raise RuntimeError
    assert p.sum() == 2


KEEPING = ("--set", "run.average=3", "--set", "run.keep_best=true")


def test_a_run_hands_over_its_best_mean_and_resumes_to_the_same_bits(tmp_path: Path):
    process = start(tmp_path / "cut", 24, *KEEPING)
    wait_for_step(process, tmp_path / "cut", 5)
    process.kill()
    process.wait()
    assert main(["resume", str(tmp_path / "cut"), "--quiet"]) == 0
    assert start(tmp_path / "whole", 24, *KEEPING).wait() == 0
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    cut, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_a_run_ends_when_validations_no_longer_improve(tmp_path: Path):
    """A vanishing step leaves the held-out PSNR as it is, to the last bit of float32."""
    still = ["--set", "upper.step_size=1e-30", "--set", "upper.schedule=constant", "--set", "run.patience=2"]
    command = ["train", "foe-denoise", "--out", str(tmp_path / "run"), *ARGUMENTS, *still, "--set", "run.steps=400"]
    assert main(command) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert len(rows) == 12  # validated at 4, 8 and 12
    assert load_file(tmp_path / "run" / "model.safetensors")
