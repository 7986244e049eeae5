"""Files of a user are written whole, with the mode and to the place that a user expects."""

import fcntl
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from app.files import append_to_own, check_writable, write_atomically, write_own
from app.models.sealed import read, sealed


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_that_umask_leaves_and_an_old_one_keeps_its_own(tmp_path):
    file, before = tmp_path / "a.csv", os.umask(0o027)
    try:
        write_atomically(file, b"1")
        assert mode(file) == 0o640
        file.chmod(0o604)
        write_atomically(file, b"2")
    finally:
        os.umask(before)
    assert (mode(file), file.read_bytes()) == (0o604, b"2")


def test_a_link_of_the_user_is_followed_and_one_to_nothing_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    target, link, lost = tmp_path / "there" / "a.csv", tmp_path / "link.csv", tmp_path / "lost.csv"
    target.write_text("old")
    link.symlink_to(target)
    lost.symlink_to(tmp_path / "nothing")
    check_writable(link)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    for write in (check_writable, lambda path: write_atomically(path, b"new")):
        with pytest.raises(OSError, match="a link to what does not exist"):
            write(lost)
    assert lost.is_symlink()
    assert not (tmp_path / "nothing").exists()


def test_a_link_in_a_run_folder_is_never_followed(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "log.txt"
    victim.write_text("precious")
    link.symlink_to(victim)
    with pytest.raises(OSError):
        append_to_own(link)
    write_own(link, b"mine")
    assert (victim.read_text(), link.read_bytes(), link.is_symlink()) == ("precious", b"mine", False)
    before = link.stat()
    write_own(link, b"mine")
    assert link.stat() == before, "what is there already is left alone"


def test_devices_and_pipes_are_written_to_as_they_are(tmp_path):
    master, slave = os.openpty()
    terminal = Path(os.ttyname(slave))
    check_writable(terminal)
    write_atomically(terminal, b"rows")
    assert os.read(master, 100) == b"rows"
    assert stat.S_ISCHR(terminal.stat().st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):  # nobody reads: no waiting for ever
        write_atomically(pipe, b"rows")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"rows")
    assert os.read(reader, 100) == b"rows"
    for descriptor in (master, slave, reader):
        os.close(descriptor)


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    file = tmp_path / ("ä" * 125 + ".csv")
    write_atomically(file, b"rows")
    assert file.read_bytes() == b"rows"


def test_stdout_gets_its_text_after_what_was_printed(capfd):
    print("table")
    write_atomically(Path("/dev/stdout"), b"rows\n")
    assert capfd.readouterr().out == "table\nrows\n"


@pytest.mark.parametrize("name", [".", "missing/a.csv", "file/a.csv"])
def test_what_cannot_be_written_is_named_and_nothing_is_left(tmp_path, name):
    (tmp_path / "file").write_text("")
    for write in (check_writable, lambda path: write_atomically(path, b"")):
        with pytest.raises(OSError) as raised:
            write(tmp_path / name)
        assert raised.value.filename == str(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_removed_and_what_another_one_writes_is_not(tmp_path):
    left, busy, own = (tmp_path / name for name in (".a.csv.00c0ffee.tmp", ".a.csv.00000001.tmp", ".a.csv.original"))
    for file in (left, busy, own):
        file.write_text("half")
    with busy.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a.csv", b"whole")
    assert {p.name for p in tmp_path.iterdir()} == {"a.csv", busy.name, own.name}


def test_a_file_of_tensors_that_was_changed_anywhere_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    whole = sealed({"a": torch.ones(2), "b": torch.zeros(())}, {"facts": "{}"})
    assert whole == sealed({"b": torch.zeros(()), "a": torch.ones(2)}, {"facts": "{}"})
    file.write_bytes(whole)
    assert read(file)[1]["a"].tolist() == [1, 1]
    for bit in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(SafetensorError):
            read(file)
