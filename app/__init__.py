"""Learn image regularizers by stochastic bilevel optimisation.

    problem = Problem(physics, clean=images, noise_level=0.05, ridge=1e-3)
    for step in fit(regularizer, problem, Isgd(batch_size=8), steps=300): ...
    solution = reconstruct(regularizer, y, physics, ridge=1e-3)

The names below are imported when they are first used: `python -m app --help` needs none of them.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_HOMES = {
    "app.problem.problem": ("Problem",),
    "app.problem.operators": ("wrap",),
    "app.problem.losses": ("SquaredError", "HuberLoss", "CharbonnierLoss"),
    "app.training.fit": ("fit", "hypergradient"),
    "app.checking.check": ("check",),
    "app.evaluation.reconstructor": ("reconstruct",),
    "app.evaluation.learned": ("load",),
    "app.models.files": ("save",),
    "app.upper.descent": ("Descent",),
    "app.upper.methods.isgd": ("Isgd",),
    "app.upper.methods.maid": ("Maid",),
    "app.upper.methods.meha": ("Meha",),
    "app.upper.methods.hoag": ("Hoag",),
    "app.upper.methods.gd_polyak": ("GdPolyak",),
    "app.upper.methods.stocbio": ("Stocbio",),
    "app.upper.methods.amigo": ("Amigo",),
    "app.upper.methods.jfb": ("Jfb",),
    "app.upper.methods.unroll": ("Unroll",),
    "regularizers": (
        "Regularizer", "TotalVariation", "FieldOfExperts", "InputConvexNetwork", "Adaptive", "Rescaled",
    ),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"app has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME)


def _require_our_datasets() -> None:
    """Another installed package is called `datasets`, too. Raises ImportError where it is found before ours."""
    found, ours = find_spec("datasets"), Path(__file__).parents[1] / "datasets"
    if found is None or ours not in (Path(p) for p in found.submodule_search_locations or ()):
        where = found.origin if found else "nowhere"
        told = f"the package `datasets` of this program lies in {ours}, but Python finds {where}: "
        told += f"put {ours.parent} first in PYTHONPATH"
        if sys.argv[:1] == ["-m"]:  # the command line, which nobody can import this for
            print("error:", told, file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(told)


_require_our_datasets()
