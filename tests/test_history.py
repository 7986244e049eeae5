"""The history of a run: few snapshots, the same ones however often the run was interrupted."""

import shutil
from itertools import pairwise

import pytest
import torch

from app.cli import main
from app.training import history
from app.training.checkpoint import RunError
from regularizers import TotalVariation

TINY = [
    "--set", "data.images=builtin:train", "--set", "data.validation=builtin:test", "--set", "data.patch_size=16",
    "--set", "upper.batch_size=2", "--set", "regularizer.filters=3", "--set", "regularizer.filter_size=3",
    "--set", "data.validation_crop=32", "--set", "run.validate_every=0", "--quiet",
]  # fmt: skip


def test_steps_that_are_kept_grow_like_a_geometric_series():
    kept = [step for step in range(100_000) if history.due(step)]
    assert kept[:10] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert len(kept) < 90
    assert all(b / a < 1.2 for a, b in pairwise(kept[10:]))


def test_a_snapshot_holds_the_natural_parameters(tmp_path):
    regularizer = TotalVariation(1, weight=0.1, smoothing=0.02)
    past = history.noted({}, 0, regularizer, last=False)
    with torch.no_grad():
        regularizer.log_weights += 1
    past = history.noted(past, 10, regularizer, last=False)
    past = history.noted(past, 11, regularizer, last=False)
    history.write(tmp_path, past)
    past = history.read(tmp_path)
    assert past["steps"].tolist() == [0, 11], "step 10 is not one to keep"
    torch.testing.assert_close(past["weights"].flatten(), torch.tensor([0.1, 0.1 * 2.718281828]))
    assert past["smoothings"].flatten().tolist() == pytest.approx([0.02, 0.02])


def test_a_longer_run_has_the_history_of_one_that_was_not_interrupted(tmp_path):
    assert main(["train", "foe-denoise", "--out", str(tmp_path / "a"), *TINY, "--set", "run.steps=12"]) == 0
    assert main(["train", "foe-denoise", "--out", str(tmp_path / "b"), *TINY, "--set", "run.steps=10"]) == 0
    before = history.read(tmp_path / "b")["steps"].tolist()
    assert before[-1] == 10, "the last step is always kept"
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    assert main(["resume", str(tmp_path / "c"), "--quiet", "--set", "run.steps=12"]) == 0
    whole, resumed = history.read(tmp_path / "a"), history.read(tmp_path / "c")
    assert whole["steps"].tolist()[-1] == 12
    # The schedule of the step size knows the number of steps: only what both runs share can be equal.
    assert whole["steps"].tolist() == resumed["steps"].tolist()
    assert 10 not in resumed["steps"].tolist()


def test_missing_and_damaged_histories_are_named(tmp_path):
    with pytest.raises(RunError, match="no history"):
        history.read(tmp_path)
    (tmp_path / "history.safetensors").write_bytes(b"12345678 broken")
    with pytest.raises(RunError, match="damaged"):
        history.read(tmp_path)
