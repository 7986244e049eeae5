"""Several processes on the images of one: the same numbers whatever their count, and nothing lost with one of them."""

import csv
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from app.cli import main, resolve_experiment
from app.processes import Processes
from app.settings.methods import METHODS
from app.settings.options import ConfigError
from app.training import session
from app.upper.share import Share, home, shared
from app.upper.state import WarmStart, settle
from scripts.ranking import TOLERANCE, _worker, difference, start, train, trained

NAMES = [method.algorithm for method in METHODS]
STEPS = 4


class Told(Processes):
    """One of several processes that hears what it is told the others say."""

    def exchange(self, own):
        return [own] * self.count


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert train(folder, STEPS, NAMES) == 0
    return folder


def test_shares_are_equal_up_to_one_image_and_hold_every_place_once():
    images = (7, 3, 9, 0, 12, 5, 1)
    for count in range(1, 8):
        places = shared(images, Processes(0, count)).places
        assert sorted(p for part in places for p in part) == list(range(7))
        assert max(map(len, places)) - min(map(len, places)) <= 1


def test_the_rank_of_an_image_does_not_depend_on_the_order_in_which_a_full_batch_draws_it():
    orders = [torch.randperm(11, generator=torch.Generator().manual_seed(s)).tolist() for s in range(5)]
    for order in orders:
        parts = shared(tuple(order), Processes(0, 4)).places
        assert [{order[p] for p in part} for part in parts] == [
            set(range(0, 2)), set(range(2, 5)), set(range(5, 8)), set(range(8, 11))
        ]  # fmt: skip
    assert {home(image, 11, Processes(0, 4)) for image in range(11)} == {0, 1, 2, 3}


def test_a_mean_weights_each_rank_by_its_images():
    share = Share(((0, 2), (1,)), Told(0, 2))
    (mean,) = share.mean((torch.tensor([3.0]),))
    assert float(mean) == pytest.approx(2 * 3.0 * 2 / 3)


def test_costs_are_shared_out_evenly_and_every_job_is_done_once():
    costs = [5.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    parts = [Processes(rank, 2).own_part(costs) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(6))
    assert [sum(costs[n] for n in part) for part in parts] == [5.0, 5.0]


def test_a_rank_forgets_what_it_remembers_of_images_that_went_to_others():
    state = WarmStart.empty(finite_sum=True)
    state.remember((0, 1, 5), *2 * [torch.ones(3, 1, 2, 2)])
    settle(state, (0, 1), shared((0, 1), Told(0, 2)))
    assert set(state.x.tensors) == set(state.q.tensors) == {0, 5}


def test_every_method_gives_the_numbers_of_one_process_and_goes_on_in_another_count_of_them(alone, tmp_path):
    """Two processes begin, and three or one go on: rows, parameters and what is remembered of images are the same."""
    three, one = tmp_path / "three", tmp_path / "one"
    assert trained(2, three, STEPS // 2, NAMES) == ""
    shutil.copytree(three, one)
    assert trained(3, three, STEPS, NAMES) == ""
    assert train(one, STEPS, NAMES) == 0
    found = {(by.name, name): difference(by / name, alone / name) for by in (three, one) for name in NAMES}
    assert max(found.values()) <= TOLERANCE, found
    assert {p.name for p in (three / "isgd").iterdir()} == {p.name for p in (alone / "isgd").iterdir()}


def test_a_killed_rank_is_named_in_one_line_and_torchrun_goes_on_to_the_bits_of_two_nodes(tmp_path):
    """One run loses a rank by kill -9 and is started anew by torchrun; the other is on two nodes, and loses nothing."""
    steps, killed, whole = 40, tmp_path / "killed", tmp_path / "whole"
    words = lambda folder: ["scripts.ranking", "train", str(folder), str(steps), "isgd"]  # noqa: E731
    process = start(2, words(killed), ("--max-restarts", "1"))
    metrics = killed / "isgd" / "metrics.csv"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 5):
        time.sleep(0.01)
    pid = _worker(process.pid, 1)
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert [line for line in errors.splitlines() if line.startswith("error")] == [
        f"error: rank 1 (process {pid} on {socket.gethostname()}) ended without a word, or did not answer: it was "
        f"killed, or it hangs"
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    more = ("--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port)
    nodes = [start(1, words(whole), (*more, "--node-rank", str(n))) for n in range(2)]
    for node in nodes:
        _, errors = node.communicate()
        assert node.returncode == 0, errors
    assert difference(killed / "isgd", whole / "isgd") == 0


def test_sigterm_to_torchrun_stops_all_ranks_after_one_step_which_is_saved(tmp_path):
    process = start(2, ["scripts.ranking", "train", str(tmp_path), "100000", "isgd"])
    metrics = tmp_path / "isgd" / "metrics.csv"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert [line for line in errors.splitlines() if line in ("interrupted",) or line.startswith("error")] == [
        "interrupted"
    ]
    assert "stopped after a whole step" in (tmp_path / "isgd" / "log.txt").read_text()
    shutil.copytree(tmp_path / "isgd", tmp_path / "copy")
    rows = metrics.read_text().count("\n") - 1
    assert main(["resume", str(tmp_path / "copy"), "--quiet", "--set", f"run.steps={rows}"]) == 0


def test_evaluate_shares_images_out_and_prints_one_table_in_order(tmp_path, capfd):
    images, cpu = ["--images", "builtin:test"], ["--set", "run.device=cpu"]
    words = ["evaluate", "tv-denoise-grey-25", *images, *cpu, "--quiet", "--csv"]
    assert main([*words, str(tmp_path / "one.csv")]) == 0
    table = capfd.readouterr().out
    process = start(2, ["app", *words, str(tmp_path / "two.csv")])
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    one, two = (list(csv.DictReader((tmp_path / f"{n}.csv").open())) for n in ("one", "two"))
    assert [row | {"seconds": ""} for row in one] == [row | {"seconds": ""} for row in two]
    without_seconds = [[line.split()[:6] for line in text.splitlines()[:3]] for text in (out, table)]
    assert without_seconds[0] == without_seconds[1]
    assert out.splitlines()[3:] == table.splitlines()[3:]


def test_more_processes_than_images_of_a_step_are_refused_before_anything_is_written(tmp_path):
    _, config = resolve_experiment("tv-denoise", ["data.images=builtin:train", "data.validation=builtin:test"])
    with (
        pytest.raises(ConfigError, match=r"9 processes cannot share the 8 images of a step: raise upper\.batch_size"),
        session.begin(config, tmp_path / "run", Path(), processes=Processes(0, 9)),
    ):
        pass
    assert not (tmp_path / "run").exists()
