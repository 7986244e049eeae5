"""`compare --sweep`: does a method need a hand-tuned step? Each with the step it finds, and with multiples of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from app.files import write_own
from app.settings.comparison import Comparison
from app.settings.methods import StochasticOptions
from app.settings.options import Config, ConfigError
from app.training import records
from app.training.checkpoint import RunError
from app.training.session import DONE, finish
from figures.table import pipes

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)

Found = dict[float, float]  # held-out PSNR in dB at the end, by factor; -inf where a run diverged


def sweep(comparison: Comparison, out: Path, data_root: Path, quiet: bool, command: str) -> int:
    """Train the missing runs of the first seed, then print a table. ConfigError if a variant sets its step."""
    rows: dict[str, tuple[float, Found]] = {}
    for label, [(name, config), *_] in comparison.runs().items():
        if config.upper.step_size:
            raise ConfigError(f"{label}: --sweep is for steps that are found; set upper.step_size = 0")
        train = partial(finish, data_root=data_root, quiet=quiet, command=command)
        rows[label] = _multiples(config, out / name, train)
    text = f"{comparison.about[:1].upper()}{comparison.about[1:]}:\n\n{table(rows)}"
    write_own(out / "table.md", text.encode())
    print(text)
    print(out / "table.md")
    return 0


def _multiples(config: Config, folder: Path, train: Callable[[Config, Path], int]) -> tuple[float, Found]:
    """alpha_0 as the first step that moved says (of MAID: after backtracking), and what its multiples reach."""
    found = {1.0: _held_out(config, folder / "step-1", train)}
    alpha = next((a for a in records.read(folder / "step-1" / "metrics.csv")["step_size"] if a > 0), None)
    if alpha is None:
        raise RunError(f"{folder / 'step-1'} did not move: there is no step to multiply")
    for factor in FACTORS:
        if factor != 1:
            # A step that is given begins to decrease at once, and nothing damps it.
            stochastic = isinstance(config.upper, StochasticOptions)
            change = {"step_factor": factor} if stochastic else {"step_size": factor * alpha}
            found[factor] = _held_out(
                replace(config, upper=replace(config.upper, **change)), folder / f"step-{factor:g}", train
            )
    return alpha, found


def _held_out(config: Config, folder: Path, train: Callable[[Config, Path], int]) -> float:
    status = train(config, folder)
    return records.read(folder / "metrics.csv")["validation_psnr"][-1] if status == DONE else float("-inf")


def table(rows: dict[str, tuple[float, Found]]) -> str:
    """Write a table in Markdown. The gap is what the best of the steps is ahead of the one that was found."""
    heads = ["method", "step found", *(f"x {f:g}" for f in FACTORS), "gap (dB)"]
    body = [
        [label, f"{alpha:.2g}", *(_cell(found[f]) for f in FACTORS), _cell(max(found.values()) - found[1.0])]
        for label, (alpha, found) in rows.items()
    ]
    return pipes(heads, body)


def _cell(psnr: float) -> str:
    return f"{psnr:.2f}" if abs(psnr) < float("inf") else "diverged"
