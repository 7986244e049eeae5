"""Numbers that no machine or nobody means are refused in one line, before memory is asked for."""

import pytest

from tests.test_cli import refused

BIG, DEEP = "1" * 400, "[" * 5000

KEYS = """
problem.noise_level problem.ridge regularizer.weight regularizer.smoothing regularizer.filters regularizer.filter_size
regularizer.noise_nodes regularizer.contrast_channels data.patch_size data.count data.validation_crop upper.batch_size
upper.step_size upper.accuracy lower.final_accuracy lower.max_iterations run.steps run.budget run.seed run.average
""".split()  # noqa: SIM905


VALUES = [BIG, "1" * 5000, "-" + BIG, "1e300", "nan", "-inf", DEEP, DEEP + "]" * 5000, "{a=1}"]


@pytest.mark.parametrize("value", VALUES)
def test_no_number_is_too_long_too_large_or_too_deep_to_be_refused(capsys, value):
    for key in KEYS:
        line = refused(capsys, "train", "foe-denoise", "--set", f"{key}={value}")
        assert key in line
        assert len(line) < 300


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("upper.batch_size=1000000", 4096), ("regularizer.filter_size=1000000001", 63),
        ("regularizer.filters=1e5", None), ("regularizer.filters=1000000", 4096),
        ("regularizer.noise_nodes=1000000000", 100),
        ("regularizer.contrast_channels=100000", 1024), ("data.patch_size=1000000", 8192),
    ],
)  # fmt: skip
def test_sizes_beyond_all_use_are_refused_with_their_limit(capsys, setting, limit):
    line = refused(capsys, "train", "foe-denoise", "--set", setting)
    assert f"at most {limit}" in line if limit else "whole number" in line
