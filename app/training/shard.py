"""A comparison by n jobs, which share its folder and nothing else.

    job i of n trains the runs i, i + n, i + 2 n, ... of all variants and seeds, in their order

How a run ended is kept in its folder, and not before all is there that the table needs. So the job that ends last finds
the ends of all runs, and has what a single job would have; those before it name the runs that are missing.
"""

from pathlib import Path

from app.files import write_own
from app.settings.options import Config
from app.training.outcome import outcome
from app.training.session import DIVERGED, DONE, check_settings, finish

ENDED = "ended.txt"
WORDS = {DONE: "done", DIVERGED: "diverged"}

Groups = dict[str, list[tuple[str, Config]]]  # (name, settings) of the runs, by label


def finish_shard(
    groups: Groups, shard: tuple[int, int], out: Path, data_root: Path, quiet: bool, command: str
) -> tuple[dict[str, list[Path]], list[str]]:
    """Train the runs of one job to their ends. Return the folders of all runs that did not diverge, by label, and the
    names of those that have not ended yet. Raises RunError. Its parameters are those of `finish_all`, and the job."""
    index, jobs = shard
    for name, config in [run for runs in groups.values() for run in runs][index - 1 :: jobs]:
        status = finish(config, out / name, data_root, quiet, command)
        if status == DONE:
            outcome(out / name, data_root)
        write_own(out / name / ENDED, _mark(status, out / name))
    ends = {name: _end(out / name, config) for runs in groups.values() for name, config in runs}
    done = {label: [out / name for name, _ in runs if ends[name] == DONE] for label, runs in groups.items()}
    return done, [name for name, end in ends.items() if end is None]


def _mark(status: int, folder: Path) -> bytes:
    """How a run ended, and with which settings: one that was continued since has not ended."""
    return f"{WORDS[status]}\n\n".encode() + (folder / "config.toml").read_bytes()


def _end(folder: Path, config: Config) -> int | None:
    """DONE, DIVERGED, or None of a run that has not ended. Raises RunError where the folder holds another run."""
    if not (folder / ENDED).is_file():
        return None
    check_settings(folder, config)
    found = (folder / ENDED).read_bytes()
    return next((status for status in WORDS if found == _mark(status, folder)), None)
