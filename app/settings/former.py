"""Configurations that were written before [problem], [regularizer] and [upper] had keys of their own for each choice:
thirteen sections, one for each method beside [upper], with all keys whether or not anything read them."""

from typing import Any

METHODS = ("stocbio", "amigo", "unroll", "meha", "maid", "hoag", "gd_polyak")  # that had a section
SECTIONS = {"problem", "data", "regularizer", "lower", "upper", "run", *METHODS}


def is_former(values: dict[str, Any]) -> bool:
    """Return whether a nested dict has all the sections that such a configuration had."""
    return values.keys() >= SECTIONS and all(isinstance(values[name], dict) for name in SECTIONS)


def translated(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the same settings by their present names, with those that nothing reads."""
    new = {name: dict(section) for name, section in values.items() if name not in METHODS}
    problem, upper, run = new["problem"], new["upper"], new["run"]
    low, high = problem.get("noise_low", 0), problem.get("noise_high", 0)
    if low and high:
        problem["noise_level"] = [low, high]
    if problem.get("kernel") == "gaussian":
        problem["kernel"] = f"gaussian:{problem['kernel_size']}:{problem['kernel_width']!r}"
    if new["regularizer"].get("name") == "foe":  # whose filters were never composed
        new["regularizer"].pop("hidden_channels", None)
    upper |= values.get(upper["algorithm"], {})
    if upper["algorithm"] == "maid":
        upper["relative_error"] = upper["error"]
    if run.get("budget") and upper.get("schedule") == "one_cycle":
        run["budget"] = 0.0  # the schedule is that of run.steps, which are enough to end the run
    return new
