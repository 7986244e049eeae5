"""What a model file says about its making, checked: a file may come from anywhere, and say anything."""

import json
from typing import Any, get_args, get_origin

from app.settings.fields import shown

KINDS: dict[str, Any] = {
    "step": int, "computations": int, "seconds": float, "seconds_before": float, "date": str, "certified": str,
    "commands": list[str], "hardware": list[str], "versions": dict[str, str], "evaluations": list[dict],
}  # fmt: skip
OF_A_RUN = ("step", "computations", "seconds", "versions")  # without which there is no report


def parse_facts(text: str, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the facts of a file. Raises ValueError where one is of another kind, or one that is needed is missing."""
    try:
        facts = json.loads(text)
    except RecursionError:
        raise ValueError("its facts are nested too deeply") from None
    if not isinstance(facts, dict):
        raise ValueError(f"its facts are {shown(facts)}, not a table")
    require_kinds(facts, {name: kind for name, kind in KINDS.items() if name in facts or name in needed})
    return facts


def require_kinds(facts: dict[str, Any], kinds: dict[str, Any]) -> None:
    """Check that all these facts are there, of these kinds. Raises ValueError."""
    for name, kind in kinds.items():
        if not _fits(value := facts.get(name), kind):
            raise ValueError(f"its fact {name} = {shown(value)} should be {getattr(kind, '__name__', kind)}")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(entry, get_args(kind)[0]) for entry in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(entry, get_args(kind)[1]) for entry in value.values())
    if kind is int or (kind is float and type(value) is int):
        return type(value) is int and 0 <= value < 2**63
    return isinstance(value, kind)
