"""Images are read when they are needed: the same batches, in bounded memory, of files that are what they were."""

import logging
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app import memory
from app.cli import main
from app.training import inputs, run
from datasets import index
from datasets.decode import decode_image
from datasets.held_out import of_bsd68
from datasets.image_sets import find_images
from datasets.images import ImageError, as_float, as_picture, read_compact, read_image
from datasets.images import _grey_levels as grey_levels
from datasets.index import facts_of
from datasets.on_demand import OnDemand
from datasets.patches import Beside, Patches
from scripts.disking import against_memory, make_images, train
from tests.test_cli import refused
from tests.test_run_folders import TINY, contents


@pytest.fixture
def images(tmp_path) -> Path:
    """Six colour images of 400 x 300 pixels: PNG, JPEG, one of 16 bits, and one in grey."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 300, 400, 3), dtype=np.uint8)
    for i in range(4):
        Image.fromarray(pixels[i]).save(folder / f"{i}{('.png', '.jpg')[i % 2]}")
    Image.fromarray(pixels[4, ..., 0]).save(folder / "4.png")
    Image.fromarray(pixels[5, ..., 0].astype(np.uint16) * 256 + 7).save(folder / "5.png")
    return folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """An index that no other test knows, of sets of any size."""
    monkeypatch.setattr(index, "KEPT", 1)
    monkeypatch.setattr(index, "SETTLED", -1)
    monkeypatch.setattr(index, "_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def patches(folder: Path, **changes) -> Patches:
    values = {"size": 40, "seed": 3, "fixed": False, "augment": True, "source": sorted(folder.iterdir())} | changes
    return Patches(**values)


@pytest.mark.parametrize("changes", [{}, {"noise_level": 0.1}, {"size": None, "augment": False, "batch": 1}])
def test_batches_do_not_depend_on_the_memory_for_images(images, changes):
    """Also read ahead by threads, and as of tensors in memory."""
    batch = changes.pop("batch", 4) if "batch" in changes else 4
    held = [read_image(path, False) for path in sorted(images.iterdir())]
    expected = [patches(images, source=held, **changes).batch(k, batch).clean for k in range(7)]
    for limit in (0, 200_000, 1e9):
        some = patches(images, memory=limit, **changes)
        with some.reading_ahead():
            assert all(torch.equal(some.batch(k, batch).clean, expected[k]) for k in range(7))
        assert all(torch.equal(some.batch(k, batch).clean, expected[k]) for k in (3, 0))


def test_measurements_and_masks_are_read_with_their_images(images):
    calls = []

    def of(path: Path) -> torch.Tensor:
        calls.append(path)
        return read_image(path, False) * 0.5

    beside = Beside(source=sorted(images.iterdir()), read=of)
    some = patches(images, memory=0, measured=beside)
    batch = some.batch(0, 3)
    assert torch.equal(batch.measured, batch.clean * 0.5)
    assert len(calls) == 6 + 3, "each once to be looked at, then those of the batch"


def test_every_colour_is_made_grey_as_a_reconstruction_makes_it():
    """Blocks of rows, in 8 bits, round as whole images in float64 do."""
    red, green, blue = np.meshgrid(np.arange(0, 256, 15), np.arange(256), np.arange(256), indexing="ij")
    pixels = np.stack([red, green, blue], -1).reshape(-1, 256, 3).astype(np.uint8)
    whole = as_picture(pixels, Path("x.png"), False, None).image
    assert torch.equal(as_float(torch.from_numpy(grey_levels(pixels))[..., 0][None]), whole)


def test_what_is_kept_and_awaited_stays_within_the_limit():
    sizes, present = [3, 1, 4, 1, 5, 9, 2, 6], set()
    lock = threading.Lock()

    def read(n: int) -> int:
        with lock:
            present.add(n)
        return n

    items = OnDemand(read, lambda n: sizes[n], lambda n: sizes[n], 10)
    chance = np.random.default_rng(0)
    with items.reading_ahead(2):
        for _ in range(300):
            wanted = chance.integers(0, 8, 3).tolist()
            items.expect(wanted)
            for n in wanted:
                assert items[n] == n
                assert items._bytes <= 10
                kept = sum(size for _, size in items._kept.values())
                assert items._bytes == kept + sum(sizes[n] for n in items._awaited)
    assert not items._awaited


def test_a_share_of_the_items_kept_spares_that_share_of_the_reading():
    """In epochs of 100 items in random orders; dropping the oldest instead would spare a quarter of it."""
    reads = []
    items = OnDemand(lambda n: reads.append(n) or n, lambda n: 1, lambda n: 1, 50)
    chance = np.random.default_rng(0)
    for _ in range(20):
        for n in chance.permutation(100).tolist():
            _ = items[n]
    assert len(reads) - 100 == pytest.approx(19 * 50, rel=0.05)


def test_what_is_expected_is_read_once_and_before_it_is_needed():
    reads, ready = [], threading.Event()

    def read(n: int) -> int:
        reads.append(n)
        if len(reads) == 3:
            ready.set()
        return n

    items = OnDemand(read, lambda n: 1, lambda n: 1, 10)
    items.expect([0, 1])
    assert not reads, "nothing is read ahead outside the context"
    with items.reading_ahead(2):
        items.expect([0, 1, 2])
        assert ready.wait(10)
        assert [items[n] for n in (2, 0, 1)] == [2, 0, 1]
    assert sorted(reads) == [0, 1, 2]


def test_threads_that_decode_leave_the_process_as_it_was(images, tmp_path, capfd):
    """Warnings, levels of loggers and stderr, however many begin and end in whatever order."""
    Image.open(images / "0.png").save(tmp_path / "a.tif")
    files = [*sorted(images.iterdir()), tmp_path / "a.tif"] * 6
    before = (warnings.filters[:], logging.getLogger("PIL").level, logging.getLogger("tifffile").level)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda file: decode_image(file.read_bytes()), files))
    assert (warnings.filters, logging.getLogger("PIL").level, logging.getLogger("tifffile").level) == before
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_files_are_not_read_again_until_they_change(images, own_cache, monkeypatch):
    paths = sorted(images.iterdir())
    first = facts_of(paths)
    assert first["height"].tolist() == [300] * 6
    assert first["channels"].tolist() == [3, 3, 3, 3, 1, 1]
    assert first["depth"].tolist() == [8] * 5 + [16]
    index._known.cache_clear()  # as another program would find it
    monkeypatch.setattr(index, "_examined", lambda path: pytest.fail(f"{path} was read"))
    assert facts_of(paths).tobytes() == first.tobytes()
    monkeypatch.undo()
    monkeypatch.setattr(index, "_cache", lambda: own_cache)
    monkeypatch.setattr(index, "SETTLED", -1)
    status = paths[1].stat()
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(paths[1])
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    again = facts_of(paths)
    assert (again[1]["height"], again[1]["width"]) == (8, 9), "a file that is given its old date has changed"
    assert again[[0, 2, 3, 4, 5]].tobytes() == first[[0, 2, 3, 4, 5]].tobytes()


def test_a_file_that_changed_a_moment_ago_is_read_again(images, own_cache, monkeypatch):
    monkeypatch.setattr(index, "SETTLED", 10**15)
    read, examined = [], index._examined
    monkeypatch.setattr(index, "_examined", lambda path: read.append(path) or examined(path))
    facts_of(sorted(images.iterdir()))
    facts_of(sorted(images.iterdir()))
    assert len(read) == 12


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 no archive", None])
def test_an_index_that_is_damaged_or_cannot_be_written_costs_time_alone(images, own_cache, damage):
    paths = sorted(images.iterdir())
    if damage is None:
        own_cache.write_text("a file where the folder should be")
    first = facts_of(paths)
    for file in own_cache.glob("*.npz"):
        file.write_bytes(damage or b"")
    index._known.cache_clear()
    assert np.array_equal(facts_of(paths)["sha256"], first["sha256"])


def test_bsd68_is_recognised_by_the_index_whatever_was_there_before(data_root, images, own_cache):
    paths = sorted(images.iterdir())
    assert of_bsd68(paths) == []
    reported = find_images("bsds500:bsd68", data_root, True).paths
    paths[3].write_bytes(reported[0].read_bytes())
    assert of_bsd68(paths) == [paths[3]]


def test_an_image_that_was_changed_while_it_is_learned_from_is_named(images):
    """No image that was not looked at is ever in a batch."""
    some = patches(images, memory=0)
    some.check()
    (images / "2.png").write_bytes((images / "0.png").read_bytes())
    (images / "3.jpg").touch()
    assert some.image(3) is not None, "the same bytes are the same image"
    with pytest.raises(ImageError, match=r"2\.png was changed"):
        some.image(2)


def test_all_images_that_cannot_be_used_are_named_before_training(images):
    (images / "1.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError) as refused:
        patches(images, color=True).check()
    assert [name in str(refused.value) for name in ("1.jpg", "4.png is grey", "5.png is grey", "2.png")] == [
        True, True, True, False,
    ]  # fmt: skip


def settings(folder: Path, *more: str) -> list[str]:
    sets = [f"data.images={folder}", f"data.validation={folder}", "data.memory=1", "data.color=true", *more]
    return [*TINY, *(word for one in sets for word in ("--set", one))]


@pytest.fixture
def large(tmp_path) -> Path:
    """Six images, of which the smallest memory for images holds two."""
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (400, 360, 3), dtype=np.uint8)).save(
            folder / f"{i}.png", compress_level=1
        )
    return folder


@pytest.mark.parametrize("loss", ["removed", "damaged"])
def test_a_run_that_loses_an_image_says_so_in_one_line_and_goes_on_when_it_is_back(
    large, tmp_path, monkeypatch, capsys, loss
):
    assert main(["train", *settings(large), "--out", str(tmp_path / "whole")]) == 0
    image, show = large / "3.png", run._show
    data, status = image.read_bytes(), image.stat()

    def lose(bar, record) -> None:
        show(bar, record)
        if record.step == 2:
            image.unlink() if loss == "removed" else image.write_bytes(data[:5000])

    monkeypatch.setattr(run, "_show", lose)
    line = refused(capsys, "train", *settings(large), "--out", tmp_path / "run")
    assert str(image) in line
    assert f"the steps before are saved in {tmp_path / 'run'}" in line
    monkeypatch.undo()
    monkeypatch.setattr("app.commands.train.draw_run", lambda *_: [])
    image.write_bytes(data)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert 3 <= len(rows) < 11
    assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 0
    ended, expected = contents(tmp_path / "run"), contents(tmp_path / "whole")
    name = next(n for n in expected if str(n).endswith("history.safetensors"))
    assert ended[name] == expected[name], "bit by bit"


def test_long_lists_of_fingerprints_lie_beside_the_checkpoint(large, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inputs, "SPELLED", 3)
    folder = tmp_path / "run"
    assert main(["train", *settings(large, "run.steps=2"), "--out", str(folder)]) == 0
    listed = folder / "checkpoint" / "data.images.sha256"
    assert [line.split("  ")[1] for line in listed.read_text().splitlines()] == [f"{i}.png" for i in range(6)]
    assert str(listed.read_text()[:64]).encode() not in (folder / "checkpoint" / "state.safetensors").read_bytes()
    assert main(["resume", str(folder), "--quiet", "--set", "run.steps=3"]) == 0
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(large / "1.png")
    line = refused(capsys, "resume", folder, "--set", "run.steps=4")
    assert "1.png of data.images changed" in line
    assert "2.png" not in line
    listed.unlink()
    assert "files of data.images changed" in refused(capsys, "resume", folder, "--set", "run.steps=4")
    assert main(["resume", str(folder), "--quiet", "--accept-changes", "--set", "run.steps=4"]) == 0
    assert listed.is_file()


def test_the_limits_of_jobs_and_containers_are_respected(tmp_path):
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "memory" / "docker").mkdir(parents=True)
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    (tmp_path / "job" / "memory.max").write_text("3000000\n")
    (tmp_path / "memory" / "docker" / "memory.limit_in_bytes").write_text("2000000\n")
    groups = tmp_path / "cgroup"
    groups.write_text("0::/job/step\n")
    assert list(memory._limits(groups, tmp_path)) == [3e6]
    groups.write_text("5:cpu,cpuacct:/docker\n4:memory:/docker\n")
    assert list(memory._limits(groups, tmp_path)) == [2e6]
    assert list(memory._limits(tmp_path / "none", tmp_path)) == []
    assert 0 < memory.memory_for_images() <= memory.usable_memory() / 4


def test_training_on_more_images_than_memory_holds_stays_within_it(tmp_path):
    """138 MB of decoded images in 8 MB, against 64 of the images; the second start reads nothing again."""
    folder = tmp_path / "images"
    folder.mkdir()
    make_images(folder, 300)
    assert len({path.read_bytes() for path in folder.iterdir()}) == 300
    length = ("run.steps=12", "upper.batch_size=16", "data.color=true")
    few = train(folder, tmp_path / "few", tmp_path, "data.count=16", "data.memory=8", *length)
    more = train(folder, tmp_path / "more", tmp_path, "data.memory=8", *length)
    assert more.peak - few.peak < 30e6, "8 MB, and what differs from one start of Python to the next"
    assert [file.suffix for file in (tmp_path / "bilevel-regularizers" / "images").iterdir()] == [".npz"]


def test_steps_are_timed_against_images_in_memory(tmp_path):
    lines = list(against_memory(tmp_path, 6, "data.patch_size=16", "upper.batch_size=2", "regularizer.filters=2"))
    assert [line.partition(",")[2].partition(":")[0] for line in lines] == [
        " first epoch", " after it", " start and first epoch together",
    ]  # fmt: skip


def test_a_million_names_are_listed_without_asking_for_each_file(tmp_path, monkeypatch):
    for i in range(50):
        (tmp_path / f"{i:02}.png").touch()
    asked, stat = [], Path.stat
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", lambda path, **how: asked.append(path.name) or stat(path, **how))
        names = [path.name for path in find_images(str(tmp_path), tmp_path, False).paths]
    assert names == [f"{i:02}.png" for i in range(50)]
    assert not set(names) & set(asked)


def test_read_compact_keeps_every_value(images):
    for path in images.iterdir():
        for color in (False, True) if path.name < "4" else (False,):
            assert torch.equal(as_float(read_compact(path, color)), read_image(path, color))
    assert {read_compact(path, False).dtype for path in images.iterdir()} == {torch.uint8, torch.float32}
