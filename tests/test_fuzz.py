"""Bad command lines at random, and that the search for faults finds them."""

import sys

import pytest

from scripts import fuzzing


@pytest.mark.parametrize("kind", range(len(fuzzing.MISTAKES)), ids=[m.__name__ for m in fuzzing.MISTAKES])
def test_bad_command_lines_are_refused_in_one_line_and_change_no_file(kind, tmp_path):
    for n in range(kind, 64, len(fuzzing.MISTAKES)):
        command, found = fuzzing.one(n, seed=0, folder=tmp_path / str(n))
        assert not found, command


def test_what_is_not_refused_as_it_should_be_is_found(tmp_path, monkeypatch, capsys):
    def wrongly(command):
        if command == ["raise"]:
            raise KeyError("k")
        if command == ["write"]:
            (tmp_path / "new").write_text("")
        if command == ["silent"]:
            return 2
        print("error: one", *(["\nerror: two"] if command == ["two"] else []), file=sys.stderr)
        return 0 if command == ["accept"] else 2

    monkeypatch.setattr(fuzzing, "main", wrongly)
    expected = {"raise": "KeyError", "write": "changed", "silent": "0 lines", "two": "2 lines", "accept": "exit code 0"}
    for word, what in expected.items():
        assert what in fuzzing.fault([word], tmp_path)
    assert fuzzing.fault(["refuse"], tmp_path) == ""
