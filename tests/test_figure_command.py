"""`figure KIND` and `report` from a run to a file, and every mistake in one line."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image

from app.cli import main
from app.drawing import kinds, report
from app.drawing import run as end_of_run
from app.drawing.arguments import BASELINES
from app.drawing.comparison import panels
from app.drawing.learned import filters_of, potentials_of
from app.drawing.runs import groups
from app.drawing.solves import SOLVERS, observe
from app.drawing.sources import labelled, one_image
from app.drawing.tables import evaluations
from app.lower.solution import norm
from app.models.files import shipped
from datasets.image_sets import find_images
from figures import curves, tradeoff
from figures import table as table_figure
from figures.style import encoded, look
from regularizers import (
    CHARBONNIER,
    Adaptive,
    FieldOfExperts,
    InputConvexNetwork,
    Regularizer,
    Rescaled,
    TotalVariation,
)
from tests.conftest import ROOT
from tests.test_cli import SMALL, refused, run_folder  # noqa: F401  (fixtures)
from tests.test_history import TINY

RUNS_DRAW = True


@pytest.fixture(scope="module")
def tv_runs(tmp_path_factory):
    """Total variation with two seeds."""
    filters = [n for n, text in enumerate(TINY) if text.startswith("regularizer.")]
    tiny = [text for n, text in enumerate(TINY) if n not in filters and n + 1 not in filters]
    folder = tmp_path_factory.mktemp("tv")
    for seed in (0, 1):
        arguments = ["--out", str(folder / f"tv-seed{seed}"), *tiny, "--set", f"run.seed={seed}"]
        assert main(["train", "tv-denoise", *arguments, "--set", "run.steps=4"]) == 0
    return folder


@pytest.fixture
def table(tmp_path, run_folder, photograph):  # noqa: F811
    file = tmp_path / "a.csv"
    assert main(["evaluate", str(run_folder), "--images", str(photograph), "--csv", str(file), "--quiet"]) == 0
    return file


@pytest.mark.parametrize("kind", ["filters", "potentials", "curves", "parameters"])
def test_every_kind_of_a_run_is_drawn(tmp_path, run_folder, kind):  # noqa: F811
    out = tmp_path / "new" / "a.pdf"
    assert main(["figure", kind, str(run_folder), "--out", str(out), "--width", "single"]) == 0
    assert out.read_bytes().startswith(b"%PDF")


def test_comparisons_show_models_beside_results_of_others(tmp_path, run_folder, photograph):  # noqa: F811
    results = tmp_path / "bm3d"
    results.mkdir()
    shutil.copy(photograph, results / "photograph.png")
    rows = panels([f"foe={run_folder}", str(results)], str(photograph), None, [], tmp_path)
    row = rows["photograph.png"]
    assert list(row) == ["clean", "degraded", "foe", "bm3d"]
    assert torch.equal(row["bm3d"].image, row["clean"].image)
    assert row["bm3d"].psnr == float("inf")
    measured = one_image(str(run_folder), str(photograph), None, [], tmp_path)
    assert torch.equal(row["degraded"].image, measured.y[0])
    assert torch.equal(row["foe"].image, measured.reconstruct(measured.y, (0,)).x[0])
    out = str(tmp_path / "a.png")
    place = ["--at", "photograph:5,6,8", "--at", "0,0,8", "--errors"]
    assert main(["figure", "comparison", str(run_folder), "--images", str(photograph), "--out", out, *place]) == 0


def test_results_alone_may_be_grey_and_colour(tmp_path):
    for folder in ("clean", "mine"):
        (tmp_path / folder).mkdir()
        for name, shape in (("a", (20, 30)), ("b", (30, 20, 3))):
            pixels = np.full(shape, 100 if folder == "clean" else 110, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    rows = panels([str(tmp_path / "mine")], str(tmp_path / "clean"), None, [], tmp_path)
    assert [len(row["mine"].image) for row in rows.values()] == [1, 3]
    assert rows["b.png"]["mine"].psnr == pytest.approx(-20 * np.log10(10 / 255), abs=1e-4)


def test_runs_that_differ_in_their_seed_alone_are_one_group(tv_runs, run_folder):  # noqa: F811
    seeds = [str(tv_runs / f"tv-seed{i}") for i in (0, 1)]
    assert {name: len(r) for name, r in groups([*seeds, str(run_folder)]).items()} == {"tv": 2, "tiny": 1}
    assert {name: len(r) for name, r in groups([f"a={seeds[0]}", f"b={seeds[1]}"]).items()} == {"a": 1, "b": 1}
    again = groups([seeds[0], f"again={seeds[0]}"])
    assert {name: len(r) for name, r in again.items()} == {"tv-seed0": 1, "again": 1}


def test_an_existing_path_is_a_source_whatever_its_name(tmp_path, tv_runs, monkeypatch):
    for seed, name in enumerate(("lr=0.1", "lr=0.01")):
        shutil.copytree(tv_runs / f"tv-seed{seed}", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert labelled(["lr=0.1", "a=lr=0.01", "b=gone"]) == [("lr=0.1", "lr=0.1"), ("a", "lr=0.01"), ("b", "gone")]
    assert main(["figure", "curves", "lr=0.1", "lr=0.01", "--out", "a.png"]) == 0
    assert main(["compare", f"{tmp_path}/lr=0.1", "b=lr=0.01", "--out", "both"]) == 0
    table = (tmp_path / "both" / "table.md").read_text()
    assert "| lr=0.1 |" in table and "| b |" in table


def test_labels_are_short_where_that_is_clear():
    assert labelled(["x=runs/a", "runs/b", "w/c.safetensors"]) == [
        ("x", "runs/a"), ("b", "runs/b"), ("c", "w/c.safetensors"),
    ]  # fmt: skip
    assert [label for label, _ in labelled(["p/a", "q/a"])] == ["p/a", "q/a"]


def test_the_certified_bound_is_above_the_true_error_at_every_gradient(tmp_path, run_folder, photograph):  # noqa: F811
    """And both solvers end where the bound is below the accuracy, at the same image."""
    settings = ["run.precision=float64"]
    measured = one_image(str(run_folder), str(photograph), None, settings, tmp_path)
    energy = measured.energy
    exact = SOLVERS["accelerated gradient"](energy, energy.backprojection, 1e-9).x
    for solve in SOLVERS.values():
        path = observe(energy, solve, 1e-3)
        assert all(float(norm(x - exact)) <= bound * (1 + 1e-9) for x, bound in path)
        assert path[-1][1] <= 1e-3 < path[-2][1]
        plain = solve(energy, energy.backprojection, 1e-3)
        assert torch.equal(path[-1][0], plain.x), "observing changes nothing"
    out = str(tmp_path / "a.svg")
    arguments = ["--images", str(photograph), "--accuracy", "0.01", "--out", out]
    assert main(["figure", "convergence", str(run_folder), *arguments]) == 0


def test_animations_of_a_reconstruction_and_of_the_filters(tmp_path, run_folder, photograph):  # noqa: F811
    small = ["--style", "web", "--width", "6", "--dpi", "50"]
    film, bank = tmp_path / "a.gif", tmp_path / "b.png"
    assert main(["figure", "animation", str(run_folder), "--images", str(photograph), "--out", str(film), *small]) == 0
    assert main(["figure", "animation", str(run_folder), "--out", str(bank), *small]) == 0
    measured = one_image(str(run_folder), str(photograph), None, [], tmp_path)
    reconstruct = measured.reconstruct
    path = observe(measured.energy, reconstruct.solver, reconstruct.accuracy)
    assert Image.open(film).n_frames == len(path)  # type: ignore[attr-defined]
    assert Image.open(bank).n_frames == 4, "steps 0 to 3"  # type: ignore[attr-defined]


def test_tables_and_tradeoffs_from_evaluations(tmp_path, table):
    metrics = ["--metrics", "psnr,seconds"]
    for out in ("t.tex", "t.md"):
        assert main(["figure", "table", f"ours={table}", "--out", str(tmp_path / out), *metrics]) == 0
    assert r"\toprule" in (tmp_path / "t.tex").read_text()
    assert (tmp_path / "t.md").read_text().startswith("| method | PSNR (dB) | seconds |")
    assert main(["figure", "tradeoff", str(table), "--out", str(tmp_path / "a.png"), "--x", "iterations"]) == 0


def test_an_image_is_certified_where_its_bound_is_finite_whatever_columns_a_file_has(tmp_path):
    files = {"old": "error_bound\na,28,0.1\nb,29,inf", "new": "error_bound,training\na,28,0.1,60\nb,29,0.1,60",
             "none": "seconds\na,28,1\nb,29,1"}  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(f"image,psnr,{text}\n")
    read = evaluations([str(tmp_path / f"{name}.csv") for name in files])
    assert [read[name].get("certified") for name in files] == [{"a": 1, "b": 0}, {"a": 1, "b": 1}, None]
    assert [tradeoff.is_certified(found) for found in read.values()] == [False, True, False]


def test_the_script_of_the_tradeoff_names_models_and_baselines_that_there_are():
    text = (ROOT / "scripts" / "tradeoff").read_text()
    models = re.findall(r"=([a-z-]+-denoise-grey-25[a-z-]*)", text)
    assert len(models) >= 9 and set(models) <= shipped().keys()
    (others,) = re.findall(r"for other in (.*); do", text)
    assert {other.partition("=")[2] for other in others.split()} <= set(BASELINES)


def test_names_on_the_command_line_are_those_of_the_figures():
    assert tuple(curves.QUANTITIES) == kinds.CURVES
    assert tuple(curves.ABSCISSAE) == kinds.ABSCISSAE
    assert tuple(table_figure.METRICS) == kinds.METRICS
    assert tuple(tradeoff.COSTS) == kinds.COSTS


@pytest.mark.parametrize("kind", kinds.TABLE, ids=lambda kind: kind.name)
def test_every_option_of_a_kind_is_read_by_the_function_that_draws_it(kind):
    parser = argparse.ArgumentParser()
    for add in kind.options:
        add(parser)
    options = {action.dest for action in parser._actions} - {"help"}
    parameters = list(signature(kind.function()).parameters)[1:]
    given = {*options, *(("look",) if kind.style else ())}
    given |= {"images", "only", "data_root", "settings"} if kind.images else set()
    assert given - {"fps"} == set(parameters) - {"suffix"}


def test_help_imports_nothing_heavy():
    program = """
import sys
from app.cli import main
for words in (["figure", "--help"], ["figure", "curves", "--help"], ["figure", "curvs"]):
    try:
        main(words)
    except SystemExit:
        pass
assert not {"torch", "deepinv", "matplotlib", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'curvs'" in done.stderr and all(kind.about[:20] in done.stdout for kind in kinds.TABLE)


def test_the_environment_changes_nothing(tmp_path, table):
    """A backend for a screen that is not there, a matplotlibrc of one's own, with an error, and dates."""
    rc = "savefig.bbox: tight\nbackend: nonsense\naxes.formatter.use_locale: True\nsvg.fonttype: none\nno.such.key: 1\n"
    (tmp_path / "matplotlibrc").write_text(rc)
    elsewhere = {name: text for name, text in os.environ.items() if name != "HOME"} | {
        "MPLBACKEND": "module://nowhere.backend", "MATPLOTLIBRC": str(tmp_path), "LC_ALL": "de_DE.UTF-8",
        "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "rubbish", "PYTHONHASHSEED": "7",
    }  # fmt: skip
    command = ["figure", "tradeoff", str(table), "--out"]
    done = subprocess.run(
        [sys.executable, "-m", "app", *command, str(tmp_path / "a.svg")],
        cwd=ROOT, capture_output=True, text=True, env=elsewhere,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert main([*command, str(tmp_path / "b.svg")]) == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_end_of_a_run_reconstructs_once_and_saves_what_two_drawings_would(tmp_path, run_folder, monkeypatch):  # noqa: F811
    drawn = []
    original = end_of_run.draw_comparison
    monkeypatch.setattr(end_of_run, "draw_comparison", lambda *a: drawn.append(original(*a)) or drawn[-1])
    folder = tmp_path / "again"
    assert main(["train", "foe-denoise", "--out", str(folder), *SMALL]) == 0
    assert len(drawn) == 1
    anew = original([str(folder)], str(find_images("builtin:test", tmp_path, False).paths[0]), 64, [], tmp_path)
    assert encoded(anew, ".pdf") == (folder / "reconstruction.pdf").read_bytes()


def test_options_of_another_kind_are_refused_in_one_line(capsys, tmp_path, run_folder):  # noqa: F811
    out = ["--out", tmp_path / "a.png"]
    for kind, option in (
        ("curves", "--zooms=2"), ("filters", "--errors"), ("comparison", "--x=step"), ("potentials", "--fps=3"),
        ("table", "--style=talk"), ("parameters", "--images=builtin"),
    ):  # fmt: skip
        line = refused(capsys, "figure", kind, run_folder, *out, option)
        assert option in line
        assert f"figure {kind} --help" in line
    both = ["--images", "builtin", "--zooms", "2", "--at", "0,0"]
    assert "not allowed with" in refused(capsys, "figure", "comparison", run_folder, *out, *both)


def test_what_is_missing_is_named(capsys, tmp_path, run_folder, photograph, table):  # noqa: F811
    def no(*arguments: object) -> str:
        return refused(capsys, "figure", *arguments, "--out", tmp_path / "a.png")

    images = ["--images", photograph]
    (tmp_path / "results").mkdir()
    Image.new("L", (48, 40)).save(tmp_path / "results" / "other.png")
    Image.new("L", (5, 5)).save(tmp_path / "results" / "small.png")
    assert "--images is missing" in no("comparison", run_folder)
    assert "no model 'nothing'" in no("comparison", "nothing", *images)
    assert "no result for the image 'photograph.png'" in no("comparison", tmp_path / "results", *images)
    assert "--only moon: no such image" in no("comparison", run_folder, *images, "--only", "moon")
    assert "leaves the image" in no("comparison", run_folder, *images, "--at", "40,0,20")
    assert "--at moon: no such image" in no("comparison", run_folder, *images, "--at", "moon:0,0,8")
    assert "is not [IMAGE:]X,Y" in no("comparison", run_folder, *images, "--at", "here")
    assert "two columns are called 'a'" in no("comparison", f"a={run_folder}", f"a={tmp_path / 'results'}", *images)
    assert "not a run folder" in no("curves", tmp_path)
    assert "unknown 'los'" in no("curves", run_folder, "--panels", "los")
    assert "no history" in no("parameters", tmp_path)
    assert "choose with --only" in no("convergence", run_folder, "--images", "builtin:test")
    assert "not an evaluation" in no("tradeoff", run_folder / "config.toml")
    assert "not an evaluation" in no("tradeoff", tmp_path / "none.csv")
    assert "two files are called 'x'" in no("tradeoff", f"x={table}", f"x={table}")
    assert "--width wide" in no("curves", run_folder, "--width", "wide")
    assert "suffix must be .pdf or .svg or .png" in refused(capsys, "figure", "curves", run_folder, "--out", "a.gif")
    assert "required: --out" in refused(capsys, "figure", "curves", run_folder)
    assert "not a finished run (no config.toml)" in refused(capsys, "report", tmp_path)


def test_what_can_be_drawn_is_asked_of_the_functional(run_folder):  # noqa: F811
    """A regularizer without filters and potentials has no such figures, and no such sections in a report."""

    class Mine(Regularizer):
        def functional(self):
            return object()

    field = FieldOfExperts(1, 3, 3, CHARBONNIER, boundary="circular")
    expected = {
        field: (True, True), Adaptive(field, 2): (True, True), Rescaled(field): (True, False),
        TotalVariation(1): (False, True), InputConvexNetwork(1, 2, 3): (False, False), Mine(): (False, False),
    }  # fmt: skip
    for regularizer, drawn in expected.items():
        assert (filters_of(regularizer) is not None, potentials_of(regularizer) is not None) == drawn
    titles = [section.title for section in report._figures(run_folder, Mine(), look("web"))]
    assert titles == ["Curves", "Parameters"]


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, tv_runs, run_folder):  # noqa: F811
    text = (ROOT / "figures" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name, folder in (("tv-denoise", tv_runs / "tv-seed0"), ("foe-denoise", run_folder)):
        shutil.copytree(folder, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert all((tmp_path / name).read_bytes().startswith(b"%PDF") for name in ("psnr.pdf", "filters.pdf"))


def test_the_readme_lists_every_kind_and_its_links_lead_somewhere():
    text = (ROOT / "figures" / "README.md").read_text()
    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == list(kinds.KINDS)
    for link in re.findall(r"\]\((.*?)\)", text):
        assert (ROOT / "figures" / link).exists(), link


def test_total_variation_has_potentials_but_no_filters(capsys, tmp_path, tv_runs):
    tv = tv_runs / "tv-seed0"
    out = tmp_path / "a.png"
    assert "has no filters" in refused(capsys, "figure", "filters", tv, "--out", out)
    assert "has no filters" in refused(capsys, "figure", "animation", tv, "--out", tmp_path / "a.gif")
    for kind in ("potentials", "parameters"):
        assert main(["figure", kind, str(tv), "--out", str(out)]) == 0
    assert Image.open(out).width == pytest.approx(17.4 / 2.54 * 300, abs=2)
