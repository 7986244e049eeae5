"""A run folder holds: whatever is killed, lost, damaged or begun twice, a run goes on from one step or says why not."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from app import interrupt
from app.cli import main
from app.models.sealed import SEALS
from app.training import owner, run
from scripts.storming import storm
from tests.conftest import ROOT

KEPT = ("config.toml", "metrics.csv", "model.safetensors", "history.safetensors", "checkpoint/state.safetensors")
TINY = [
    "tv-denoise", "--quiet", "--set", "data.patch_size=16", "--set", "upper.batch_size=2", "--set", "run.steps=10",
    "--set", "data.validation_crop=16", "--set", "run.validate_every=0", "--set", "run.checkpoint_every=8",
    "--set", "data.noise=fixed",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "images"
    folder.mkdir()
    for i in range(3):
        write_image(folder / f"{i}.png", i)
    return folder


def write_image(file: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)).save(file)


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    monkeypatch.setattr("app.commands.train.draw_run", lambda *_: [])


def train(folder: Path, images: Path, *more: str) -> int:
    data = [f"data.{key}={images}" for key in ("images", "validation")]
    return main(["train", *TINY, "--set", data[0], "--set", data[1], "--out", str(folder), *more])


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.commands.train.draw_run", lambda *_: [])
        assert train(folder, images) == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def refused(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in KEPT}


def result(folder: Path) -> dict[str, object]:
    """All that a run leaves but for seconds, dates and what was typed."""
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    kept = [[cell for name, cell in zip(rows[0], row, strict=True) if name != "seconds"] for row in rows]
    tensors = {name: load_file(folder / name) for name in KEPT if name.endswith("safetensors")}
    tensors["checkpoint/state.safetensors"].pop("books.rows")
    flat = {(name, key): t.numpy().tobytes() for name, of in tensors.items() for key, t in of.items()}
    with safe_open(folder / "model.safetensors", "pt") as model:
        step = re.search(r'"step": \d+', model.metadata()["facts"])[0]
    return {"rows": kept, "step": step, "config": (folder / "config.toml").read_text(), **flat}


class Killed(BaseException):
    """The process ends here: nothing is caught, nothing more is written."""


def test_a_crash_before_any_write_leaves_what_resume_brings_to_the_same_end(finished, images, tmp_path, monkeypatch):
    """Every file comes into being by os.replace; the process ends before the n-th, for every n of a run."""
    whole, replace, places = result(finished), os.replace, 0

    def killed_at(n: int):
        left = [n]

        def instead(source, target):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            replace(source, target)

        return instead

    for n in range(100):
        folder = tmp_path / str(n)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed_at(n))
            try:
                places, status = n, train(folder, images)
            except Killed:
                status = None
        if status == 0:
            break
        again = ["resume", str(folder), "--quiet"]
        assert (main(again) if (folder / "config.toml").exists() else train(folder, images)) == 0
        assert result(folder) == whole, f"killed before write {n}"
        assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {*KEPT, "log.txt"}
    assert places >= 11, "a start and two saves"


def test_a_storm_of_kills_leaves_what_no_kill_does(capsys):
    assert storm(1, 1, ["isgd"]) == 0, capsys.readouterr().out


def test_resuming_a_finished_run_changes_no_byte(copy):
    before = contents(copy)
    assert main(["resume", str(copy), "--quiet"]) == 0
    assert contents(copy) == before


@pytest.mark.parametrize("name", KEPT[1:4])
@pytest.mark.parametrize("how", ["lost", "cut", "zeros", "older"])
def test_what_follows_from_the_checkpoint_is_written_anew(finished, copy, name, how):
    before, file = contents(copy), copy / name
    data = file.read_bytes()
    damaged = {"cut": data[:-7], "zeros": bytes(len(data)), "older": b"step\n"}
    file.unlink() if how == "lost" else file.write_bytes(damaged[how])
    assert main(["resume", str(copy), "--quiet"]) == 0
    assert result(copy) == result(finished)
    assert all(contents(copy)[other] == before[other] for other in KEPT if other != "model.safetensors")


def test_a_checkpoint_that_lost_a_tensor_and_its_checksum_is_refused(copy, capsys):
    file = copy / "checkpoint" / "state.safetensors"
    with safe_open(file, "pt") as old:
        facts = {name: text for name, text in old.metadata().items() if name not in SEALS}
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if name.startswith("state.")))
    save_file(tensors, file, facts)
    assert "is damaged: it has lost its checksum" in refused(capsys, "resume", copy)


def test_a_second_process_is_refused_by_the_name_of_the_first(copy, images, tmp_path, capsys):
    before = contents(copy)
    with owner.owned(copy):
        sets = [word for name in ("images", "validation") for word in ("--set", f"data.{name}={images}")]
        for arguments in (["resume", copy], ["train", *TINY, *sets, "--out", copy]):
            line = refused(capsys, *arguments)
            assert re.search(rf"{copy} is in use by process {os.getpid()} on \S+ since 20", line)
        assert main(["evaluate", str(copy), "--images", str(images), "--quiet"]) == 0
    assert contents(copy) == before
    (copy / owner.LOCK).write_text("process 1 on elsewhere since the day before")
    assert main(["resume", str(copy), "--quiet"]) == 0, "a file that nobody locks is nothing"
    assert not (copy / owner.LOCK).exists()


def test_a_folder_that_disappears_while_a_run_writes_to_it_is_not_made_again(images, tmp_path, monkeypatch, capsys):
    for name, disappear in (("gone", shutil.rmtree), ("moved", lambda f: f.rename(tmp_path / "elsewhere"))):
        folder = tmp_path / name
        monkeypatch.setattr(run, "_show", lambda bar, record, f=folder, do=disappear: record.step == 2 and do(f))
        assert train(folder, images) == 2
        assert re.fullmatch(r"error: .*(removed|No such file).*\n", capsys.readouterr().err)
        assert not folder.exists()


def test_metrics_that_somebody_removes_while_a_run_writes_them_are_written_anew(
    finished, images, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    remove = lambda bar, record: record.step == 2 and (folder / "metrics.csv").unlink()  # noqa: E731
    monkeypatch.setattr(run, "_show", remove)
    assert train(folder, images) == 0
    assert result(folder) == result(finished)
    assert "was removed while the run wrote to it" in (folder / "log.txt").read_text()


def test_images_that_changed_since_a_run_began_are_named_and_can_be_accepted(images, tmp_path, capsys):
    own = Path(shutil.copytree(images, tmp_path / "own"))
    assert train(tmp_path / "run", own, "--set", "run.steps=2") == 0
    before = contents(tmp_path / "run")
    write_image(own / "1.png", 7)
    (own / "0.png").rename(own / "3.png")
    line = refused(capsys, "resume", tmp_path / "run", "--set", "run.steps=4")
    for change in (
        "0.png of data.images was removed",
        "1.png of data.images changed",
        "3.png of data.images was added",
    ):
        assert change in line
    assert contents(tmp_path / "run") == before
    again = ["resume", str(tmp_path / "run"), "--quiet"]
    assert main([*again, "--accept-changes"]) == 0
    assert "1.png of data.images changed" in (tmp_path / "run" / "log.txt").read_text()
    assert main([*again, "--set", "run.steps=4"]) == 0, "what was accepted is what it is made of now"


def test_a_run_means_the_same_from_another_folder_and_after_its_images_moved(images, tmp_path, monkeypatch):
    shutil.copytree(images, tmp_path / "here" / "images")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert train(Path("run"), Path("images"), "--set", "run.steps=4") == 0
    monkeypatch.chdir(tmp_path / "there")
    assert main(["resume", "../here/run", "--quiet", "--set", "run.steps=10"]) == 0
    (tmp_path / "here" / "images").rename(tmp_path / "there" / "moved")
    again = ["resume", "../here/run", "--quiet", "--set", "data.images=moved", "--set", "data.validation=moved"]
    assert main([*again, "--set", "run.steps=12"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["resume", "here/run", "--quiet"]) == 0


def test_a_kernel_file_that_changed_is_refused_by_resume_and_evaluate(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("k.npz", k=np.ones((3, 3)))
    blur = ["problem.task=deblur", "problem.kernel=k.npz:k", "problem.ridge=1e-2", "run.steps=2"]
    assert train(Path("run"), images, *(word for setting in blur for word in ("--set", setting))) == 0
    evaluate = ["evaluate", "run", "--images", str(images), "--quiet"]
    assert main(evaluate) == 0
    np.savez("k.npz", k=np.eye(3))
    assert "k.npz of problem.kernel changed" in refused(capsys, "resume", "run")
    assert "k.npz changed since run was trained" in refused(capsys, *evaluate)
    assert main([*evaluate, "--kernel", "k.npz:k"]) == 0


def test_links_that_somebody_put_into_a_run_folder_are_never_followed(copy, tmp_path, capsys):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("log.txt", "metrics.csv", "model.safetensors"):
        (copy / name).unlink()
        (copy / name).symlink_to(victim)
    assert main(["resume", str(copy), "--quiet"]) == 0
    assert victim.read_text() == "precious"
    (copy / "checkpoint").rename(tmp_path / "elsewhere")
    (copy / "checkpoint").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refused(capsys, "resume", copy)


def test_what_a_killed_process_left_half_written_is_removed(copy):
    left = [copy / ".config.toml.k_x01abc", copy / "checkpoint" / ".state.safetensors.0a1b2c3d.tmp"]
    for file in left:
        file.write_text("half")
    (copy / ".notes.txt").write_text("mine")
    assert main(["resume", str(copy), "--quiet"]) == 0
    assert not any(file.exists() for file in left)
    assert (copy / ".notes.txt").exists()


def test_a_former_run_whose_metrics_have_a_gap_is_refused(tmp_path, capsys):
    former = Path(__file__).parent / "data" / "former" / "foe-denoise-isgd"
    folder = Path(shutil.copytree(former, tmp_path / "run"))
    rows = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    for damaged in ([rows[0], rows[2]], [*rows[:2], rows[2][:9]], [*rows[:2], "\0" * 50 + "\n"]):
        (folder / "metrics.csv").write_text("".join(damaged))
        assert "metrics.csv" in refused(capsys, "resume", folder, "--set", "run.steps=4")


def test_signals_that_end_programs_are_those_that_whoever_started_it_lets_through(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN if number == signal.SIGHUP else None)
    assert interrupt.ending_signals() == [signal.SIGTERM]


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", "", "a\nb"])
def test_a_shipped_model_has_the_name_of_a_file(name, capsys):
    assert "must be letters" in refused(capsys, "models", "ship", "nothing", "--name", name)


def test_a_signal_that_ends_programs_ends_a_command_as_ctrl_c_does(monkeypatch, capsys):
    handlers = {number: signal.getsignal(number) for number in interrupt.ending_signals()}
    monkeypatch.setattr("app.commands.data.list_sets", lambda _: signal.raise_signal(signal.SIGTERM))
    try:
        interrupt.install()
        assert main(["data", "list"]) == 143
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err == "interrupted\n"


def test_a_signal_that_comes_while_torch_is_imported_leaves_its_exit_code(tmp_path):
    (tmp_path / "torch.py").write_text("exec('raise KeyboardInterrupt(15)')\n")
    found = subprocess.run(
        [sys.executable, "-m", "app", "data", "list"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (143, "interrupted\n")
