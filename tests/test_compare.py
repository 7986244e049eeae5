"""A comparison trains every method on the same problem, goes on where it was stopped, and says what came out."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from app.cli import main, resolve_comparison
from app.settings.comparison import read_comparison, slug
from app.settings.options import Config, ConfigError
from app.training import records, run
from app.training.outcome import outcome
from app.training.session import DONE, finish
from app.training.sweep import table
from figures import curves
from tests.conftest import ROOT
from tests.test_cli import refused

FILE = """
about = "two ways down"
reach = 5.0
experiment = "foe-denoise"
set = [
    "data.images=builtin:train", "data.validation=builtin:test", "data.patch_size=16", "data.validation_crop=16",
    "data.noise=fixed", "data.count=4", "upper.batch_size=2", "upper.schedule=constant", "regularizer.filters=2",
    "regularizer.filter_size=3", "run.budget=150", "run.checkpoint_every=1",
]
full = ["run.budget=400"]
seeds = [0, 1]

[[variant]]
name = "ISGD, Adam"

[[variant]]
name = "ISGD, SGD"
set = ["upper.optimizer=sgd", "upper.step_size=0.1"]

[[claim]]
text = "Adam is better"
source = "a paper"
better = "ISGD, Adam"
than = ["ISGD, SGD"]

[[claim]]
text = "Adam is faster"
source = "a paper"
better = "ISGD, Adam"
than = ["ISGD, SGD"]
measure = "computations"
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "ways.toml"
    path.write_text(FILE)
    return path


def test_variants_differ_in_their_own_settings_and_seeds_alone(file):
    comparison = resolve_comparison([str(file)], ["upper.batch_size=3"], False)
    adam, sgd = comparison.variants.values()
    assert (adam.upper.optimizer, sgd.upper.optimizer, sgd.upper.step_size) == ("adam", "sgd", 0.1)
    assert {c.upper.batch_size for c in (adam, sgd)} == {3}
    assert adam.run.budget == 150
    folders = [name for runs in comparison.runs().values() for name, _ in runs]
    assert folders == ["isgd-adam-seed0", "isgd-adam-seed1", "isgd-sgd-seed0", "isgd-sgd-seed1"]
    assert [c.run.seed for _, c in comparison.runs()["ISGD, SGD"]] == [0, 1]
    assert resolve_comparison([str(file)], [], True).variants["ISGD, SGD"].run.budget == 400


A = "[[variant]]\nname = 'a'\n"
CLAIM = "[[claim]]\ntext = 'a is best'\nsource = 'a paper'\nbetter = 'a'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 3", "seeds"),
        ("sede = [0]", "unknown key 'sede'"),
        ("[[variant]]\nset = []", "name of its own"),
        ("[[variant]]\nname = 'a'\n[[variant]]\nname = 'A'", "name of its own"),
        ("[[variant]]\nname = 'a'\nset = ['upper.stepsize=1']", "variant 'a'.*upper.stepsize"),
        ("seeds = [0]", "no \\[\\[variant\\]\\]"),
        (f"{A}{CLAIM}than = ['b']", "a claim names 'b'"),
        (f"{A}{CLAIM}", "than is missing"),
        (f"{A}{CLAIM}than = ['a']\nmeasure = 'seconds'", "psnr or computations"),
        (f"{A}{CLAIM}than = ['a']\nmargin = -1.0", "at least 0 dB"),
        (f"{A}{CLAIM}than = ['a', 'a']\nmeasure = 'computations'", "needs reach"),
        ("reach = 'far'", "must be a float"),
        ("not toml", "not valid TOML"),
    ],
)
def test_mistakes_in_a_comparison_are_named(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_comparison(path, lambda name: Config(), [], False)


def test_every_comparison_of_the_repository_can_be_read():
    folder = Path(__file__).parent.parent / "scripts" / "comparisons"
    for path in folder.glob("*.toml"):
        for full in (False, True):
            assert len(resolve_comparison([path.stem], [], full).variants) > 1


def test_a_comparison_ends_with_a_table_and_a_figure_and_is_not_trained_twice(file, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["compare", str(file), "--out", str(out), "--seeds", "0", "1", "--quiet"]
    assert main(arguments) == 0
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["method"] for row in rows] == ["ISGD, Adam", "ISGD, Adam", "ISGD, SGD", "ISGD, SGD"]
    for row in rows:
        assert 150 <= float(row["computations"]) < 400, "the budget ends a run with the step that exceeds it"
    columns = records.read(out / "isgd-sgd-seed0" / "metrics.csv")
    assert float(rows[2]["validation_psnr"]) == columns["validation_psnr"][-1]
    table = (out / "table.md").read_text()
    assert "| ISGD, SGD | " in table
    assert "computations to 5 dB" in table
    assert "| Adam is better | a paper | two ways down" in (out / "claims.md").read_text()
    assert imread(out / "comparison.png").ndim == 3

    held_out = list(csv.DictReader((out / "held-out.csv").open()))
    of_run = [float(row["psnr"]) for row in held_out if (row["method"], row["seed"]) == ("ISGD, SGD", "0")]
    assert len(of_run) > 1
    assert sum(of_run) / len(of_run) == pytest.approx(float(rows[2]["validation_psnr"]), abs=1e-4)
    claims = list(csv.DictReader((out / "claims.csv").open()))
    assert [row["verdict"] for row in claims][1] == "undecided", "two seeds are too few"

    monkeypatch.setattr("app.training.run.train", lambda run, progress, quiet: progress)
    before = (out / "table.csv").read_bytes()
    assert main(arguments) == 0
    assert (out / "table.csv").read_bytes() == before, "finished runs are taken as they are"
    assert main([*arguments, "--set", "upper.batch_size=3"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_sweep_trains_with_multiples_of_the_step_that_was_found(file, tmp_path, capsys):
    given, _, _ = FILE.partition("[[variant]]")
    file.write_text(given + '[[variant]]\nname = "ISGD, SGD"\nset = ["upper.optimizer=sgd"]\n')
    out = tmp_path / "out"
    short = ["run.validate_every=0", "run.budget=20", "lower.max_iterations=100"]
    arguments = ["compare", str(file), "--sweep", "--out", str(out), "--quiet"]
    arguments += [word for setting in short for word in ("--set", setting)]
    assert main([*arguments, "--set", "upper.step_size=0.1"]) == 2
    assert "set upper.step_size = 0" in capsys.readouterr().err
    assert main([*arguments, "--set", "upper.step_size=0"]) == 0
    first = [records.read(out / "isgd-sgd-seed0" / f"step-{f}" / "metrics.csv")["step_size"][0] for f in (1, 0.3)]
    assert first[1] == pytest.approx(0.3 * first[0])
    assert "| ISGD, SGD | " in (out / "table.md").read_text()


def test_the_gap_of_a_sweep_is_what_the_best_step_is_ahead():
    found = {0.1: 20.0, 0.3: 21.0, 1.0: 22.0, 3.0: 22.5, 10.0: float("-inf")}
    assert (
        table({"A": (0.25, found)}).splitlines()[-1] == "| A | 0.25 | 20.00 | 21.00 | 22.00 | 22.50 | diverged | 0.50 |"
    )


def test_runs_that_differ_in_their_seed_are_one_method(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", str(file), "--out", str(out), "--quiet"]) == 0
    folders = [str(out / f"isgd-{kind}-seed{seed}") for kind in ("adam", "sgd") for seed in (0, 1)]
    capsys.readouterr()
    assert main(["compare", *folders, "--out", str(tmp_path / "again")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| isgd")]
    assert [line.split(" | ")[0] for line in lines] == ["| isgd-adam", "| isgd-sgd"]
    assert all("±" in line for line in lines)


def test_the_training_psnr_is_that_of_all_patches(file, tmp_path):
    """Without a step the reconstruction is that of the initial regularizer, whatever the batches are."""
    out = tmp_path / "run"
    config = next(
        iter(
            resolve_comparison(
                [str(file)], ["run.budget=0", "run.steps=1", "upper.batch_size=4"], False
            ).variants.values()
        )
    )
    assert finish(config, out, Path("data"), True, "") == DONE
    first = records.read(out / "metrics.csv")["psnr"][0]
    final = outcome(out, Path("data")).training_psnr
    assert abs(final - first) < 1.0
    assert final != first


def test_the_figure_shows_each_method_against_computations_and_seconds():
    ramp = [1.0, 2.0, 3.0]
    names = ("computations", "seconds", "loss", "validation_psnr", "accuracy", "step_size")
    run = dict.fromkeys(names, ramp)
    figure = curves.compare({"a": [run, run], "b": [run]})
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 6
    assert sorted(titles)[:2] == sorted([r"accuracy $\epsilon_k$", "held-out PSNR (dB)"])
    assert {axes.get_xlabel() for axes in figure.axes} >= {"total computations", "seconds of training"}
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a (2 seeds)", "b"]


def test_names_of_folders():
    assert slug("ISGD, step 0.1 (Adam)") == "isgd-step-0.1-adam"


def test_a_method_that_diverges_is_named_and_the_others_are_compared(file, tmp_path, capsys):
    file.write_text(FILE.replace("upper.step_size=0.1", "upper.step_size=1e30").replace("[0, 1]", "[0]"))
    assert main(["compare", str(file), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| ISGD, SGD | diverged |" in table
    assert "| ISGD, Adam | 2" in table


TIMED = ("seconds",)


def without_seconds(out: Path) -> tuple[object, object]:
    """The table of a comparison, and its rows as they are, but for the seconds."""
    rows = list(csv.reader((out / "table.csv").open()))
    lines = [line.split(" | ") for line in (out / "table.md").read_text().splitlines()]
    heads = next(line for line in lines if line[0] == "| method")
    kept = [i for i, head in enumerate(heads) if head not in TIMED]
    table = [[line[i] for i in kept] if len(line) == len(heads) else line for line in lines]
    return [[cell for head, cell in zip(rows[0], row, strict=True) if head not in TIMED] for row in rows], table


def test_jobs_side_by_side_leave_what_a_single_job_leaves(file, tmp_path):
    """Three processes begin together and share a folder; the last to end draws."""
    command = [sys.executable, "-m", "app", "compare", str(file), "--quiet", "--set", "run.device=cpu", "--out"]
    jobs = [
        subprocess.Popen(
            [*command, str(tmp_path / "shared"), "--shard", f"{i}/3"], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for i in (1, 2, 3)
    ]
    said = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert any("| ISGD, SGD | " in text for text in said)
    assert main([*command[3:], str(tmp_path / "alone")]) == 0
    assert without_seconds(tmp_path / "shared") == without_seconds(tmp_path / "alone")
    for name in ("isgd-adam-seed0", "isgd-sgd-seed1"):
        histories = [(tmp_path / out / name / "history.safetensors").read_bytes() for out in ("shared", "alone")]
        assert histories[0] == histories[1]


def test_a_job_that_ends_before_others_says_what_is_missing_and_one_that_died_goes_on(
    file, tmp_path, capsys, monkeypatch
):
    arguments = ["compare", str(file), "--seeds", "0", "--quiet", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--shard", "2/2"]) == 0
    assert "1 of 2 runs have not ended: isgd-adam-seed0" in capsys.readouterr().out
    assert not (tmp_path / "out" / "table.md").exists()
    show = run._show

    def stop(bar, record) -> None:
        show(bar, record)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_show", stop)
    assert main([*arguments, "--shard", "1/2"]) > 2
    monkeypatch.undo()
    assert main([*arguments, "--shard", "2/2"]) == 0, "what has ended is not trained again"
    assert "isgd-adam-seed0" in capsys.readouterr().out
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert "| ISGD, SGD | " in (tmp_path / "out" / "table.md").read_text()


def test_a_run_that_diverged_in_another_job_is_named_by_the_last_one(file, tmp_path):
    file.write_text(FILE.replace("upper.step_size=0.1", "upper.step_size=1e30").replace("[0, 1]", "[0]"))
    for job in ("2/2", "1/2"):
        assert main(["compare", str(file), "--out", str(tmp_path / "out"), "--quiet", "--shard", job]) == 0
    assert "| ISGD, SGD | diverged |" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("shard", ["4/3", "0/3", "a/b", "1", "1/", "-1/2", "1/2/3", "², ²", "1/0"])
def test_what_is_no_job_of_several_is_refused(file, tmp_path, capsys, shard):
    line = refused(capsys, "compare", file, "--out", tmp_path / "out", f"--shard={shard}")
    assert "--shard" in line
    assert not (tmp_path / "out").exists()


def test_a_sweep_and_finished_runs_have_no_jobs(file, tmp_path, capsys):
    assert "--sweep" in refused(capsys, "compare", file, "--out", tmp_path / "out", "--sweep", "--shard", "1/2")


@pytest.mark.parametrize("script", ["compare", "train"])
def test_the_scripts_for_slurm_are_bash_and_name_commands_that_exist(script):
    text = (ROOT / "scripts" / "slurm" / f"{script}.sbatch").read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert f"-m app {script}" in text
