"""How long runs trained until their held-out PSNR reached a value."""

import pytest

from app.cli import main
from app.drawing.runs import write_reach
from app.training.records import HEADER
from app.training.setup import past
from figures import reach
from figures.reach import Reached
from tests.samples import run
from tests.test_cli import refused, run_folder  # noqa: F401  (fixtures)


def test_a_value_is_reached_between_the_validations_around_it():
    """Validated at steps 10, 20, ... with 27.15 dB and 1/6 dB more each time, a tenth of a second per step."""
    assert reach.first(run(), 27.3) == Reached(pytest.approx(1.9), pytest.approx(19_000))
    assert reach.first(run(), 26.0) == Reached(pytest.approx(1.0), pytest.approx(10_000))
    assert reach.first(run(), 28.0) is None


def test_seeds_are_averaged_and_runs_that_did_not_reach_it_are_counted():
    a, b = Reached(10, 1000), Reached(14, 3000)
    groups = {"foe|x": [[a, a, None], [b, None, None]], "tv_1": [[a, a, a]]}
    assert reach.markdown(groups, (27, 27.5, 28)).splitlines() == [
        "| runs | seconds to 27 dB | computations to 27 dB | seconds to 27.5 dB | computations to 27.5 dB "
        "| seconds to 28 dB | computations to 28 dB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        r"| foe\|x | 12 ± 3 | 2000 ± 1414 | reached by 1 of 2 | reached by 1 of 2 | not reached | not reached |",
        "| tv_1 | 10 | 1000 | 10 | 1000 | 10 | 1000 |",
    ]
    assert r"tv\_1 & 10 & 1000 & 10 & 1000 & 10 & 1000 \\" in reach.latex(groups, (27, 27.5, 28))


def test_the_time_of_the_model_that_a_run_began_with_counts(tmp_path, monkeypatch):
    (tmp_path / "metrics.csv").write_text(HEADER + "1,1,1,1,1,1,1,1,1,500,20.0,27.5\n")
    monkeypatch.setattr("app.drawing.runs.past", lambda folder: {"seconds_before": 100.0})
    assert write_reach([str(tmp_path)], (27.0,)).splitlines()[-1].endswith("| 120 | 500 |")
    assert past(tmp_path) == {}, "a run without a model file has no past"


def test_the_command_writes_what_runs_kept(capsys, tmp_path, run_folder):  # noqa: F811
    table = tmp_path / "t.md"
    assert main(["figure", "reach", f"foe={run_folder}", "--psnr", "1,100", "--out", str(table)]) == 0
    head, _, row = table.read_text().splitlines()
    assert head.startswith("| runs | seconds to 1 dB |")
    assert row.startswith("| foe | ") and row.endswith(" | not reached | not reached |")
    assert "--psnr: must be a number" in refused(
        capsys, "figure", "reach", run_folder, "--psnr", "27,x", "--out", table
    )
    assert "not a run folder" in refused(capsys, "figure", "reach", tmp_path, "--psnr", "27", "--out", table)
