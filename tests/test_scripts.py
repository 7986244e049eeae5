"""The scripts that measure and verify: what is typed wrongly is refused before anything begins."""

import runpy
import sys

import pytest


@pytest.mark.parametrize("words", [
    "ranking abc", "ranking -3", "ranking 1 0", "ranking --methods newton", "disking abc", "disking 0", "disking 5 0",
    "storming abc", "storming 1 0 nothing", "fuzzing abc", "certify --only nothing",
    "certify --only bright --models nothing",
    "bordering --models nothing", "oracles nothing", "leaderboards nothing",
])  # fmt: skip
def test_a_wrong_argument_is_refused_in_one_line(words, monkeypatch, capsys):
    name, *arguments = words.split()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"scripts.{name}", run_name="__main__")
    assert ended.value.code == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if "error:" in line]) == 1
