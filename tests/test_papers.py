"""The folder of a paper: all that main.tex includes is there, it says what is shown, it compiles, and it goes on."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from app.settings import tasks
from scripts import papers
from scripts.papers import Float, block, page

MODELS = ("TV_1=tv-denoise-grey-25", "50% & more=foe-mcp-denoise-grey-25-small")


def make(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["paper", *map(str, arguments)])
    papers.main()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two crops of a photograph that ships with scikit-image; LaTeX would stumble over their names."""
    folder = tmp_path_factory.mktemp("images_&_more")
    for i, corner in enumerate((100, 220)):
        Image.fromarray(data.camera()[corner : corner + 40, corner : corner + 48]).save(folder / f"a_{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images) -> Path:
    out = tmp_path_factory.mktemp("paper") / "out"
    with pytest.MonkeyPatch.context() as patch:
        make(patch, *MODELS, "--images", images, "--out", out)
    return out


def test_all_that_is_included_is_there(folder):
    text = (folder / "main.tex").read_text()
    included = re.findall(r"\\(?:includegraphics|input)\{([^}]*)\}", text)
    assert len(included) == 7
    for name in included:
        assert (folder / name).stat().st_size > 100, name
    assert {p.name for p in folder.glob("*.pdf")} == {name for name in included if name.endswith(".pdf")}


def test_captions_state_the_setting_the_count_and_what_errors_are(folder):
    text = (folder / "main.tex").read_text()
    captions = re.findall(r"\\caption\{(.*)\}\\label", text)
    assert sum("denoising, noise 25/255; 2 images of" in caption for caption in captions) == 4
    assert any(r"$\pm$ is the standard error of the mean over the 2 images" in caption for caption in captions)
    assert any("images whose bound is at most 0.1" in caption for caption in captions)
    rows = (folder / "certificates.tex").read_text()
    assert r"TV\_1 & 2 & 1 & 2/2 & " in rows
    assert r"50\% \& more & 2448 & 0.05 & 2/2 & " in rows


def test_latex_is_well_formed(folder):
    """Braces, environments and mathematics are balanced, every reference has a label, names are escaped."""
    for file in folder.glob("*.tex"):
        text = re.sub(r"(?<!\\)%.*", "", file.read_text())
        bare = re.sub(r"\\[\\{}$%&_#]", "", text)
        assert bare.count("{") == bare.count("}"), file
        assert bare.count("$") % 2 == 0, file
        opened, closed = (re.findall(rf"\\{word}\{{([^}}]*)\}}", text) for word in ("begin", "end"))
        assert sorted(opened) == sorted(closed), file
        assert set(re.findall(r"\\ref\{(.*?)\}", text)) == set(re.findall(r"\\label\{(.*?)\}", text)), file
        for line in re.sub(r"\$[^$]*\$", "", bare).splitlines():
            assert "_" not in re.sub(r"\\(?:includegraphics|input|label|ref)\{[^}]*\}", "", line), line
    rows = [line.count(" & ") for line in (folder / "certificates.tex").read_text().splitlines() if " & " in line]
    assert set(rows) == {6}


def test_main_tex_compiles(folder, tmp_path):
    compiler = shutil.which("pdflatex") or shutil.which("tectonic")
    if compiler is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    copy = shutil.copytree(folder, tmp_path / "copy")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if compiler.endswith("pdflatex") else []
    done = subprocess.run([compiler, *options, "main.tex"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (copy / "main.pdf").stat().st_size > 1000


def test_what_is_there_is_kept_and_another_paper_is_refused(folder, images, monkeypatch, capsys):
    (folder / "tradeoff.pdf").unlink()
    (folder / "main.tex").unlink()
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(papers, "evaluate", None)
    make(monkeypatch, *MODELS, "--images", images, "--out", folder)
    assert (folder / "tradeoff.pdf").is_file()
    assert (folder / "main.tex").is_file()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(SystemExit) as ended:
        make(monkeypatch, *MODELS, "--images", images, "--count", 1, "--out", folder)
    assert ended.value.code == 2
    assert "other arguments" in capsys.readouterr().err


def test_every_task_has_a_name_for_captions():
    assert {task.task for task in tasks.TASKS} == set(papers.TASKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tv-denoise-grey-25", "tv-deblur-grey-gaussian"], "different measurements"),
        (["a=tv-denoise-grey-25", "A=tv-denoise-grey-15"], "label of its own"),
        (["tv-denoise-grey-25", "--count", "0"], "--count"),
        (["nothing"], "no model"),
        (["tv-denoise-grey-25", "--runs", "nowhere"], "not a run folder"),
    ],
)
def test_mistakes_end_in_one_line_and_nothing_is_written(arguments, message, images, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        make(monkeypatch, *arguments, "--images", images, "--out", tmp_path / "out")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_has_its_caption_above_and_a_wide_float_both_columns():
    table, figure = block(Float(file="t.tex", caption="T")), block(Float(file="f.pdf", caption="F", wide=True))
    assert table.index("caption") < table.index("input")
    assert figure.index("includegraphics") < figure.index("caption")
    assert figure.startswith(r"\begin{figure*}")
    assert r"Tables \ref{t} and Figures \ref{f}: about." in page(
        "about", [Float(file="t.tex", caption="T"), Float(file="f.pdf", caption="F")]
    )
