"""Imports point one way, so that each part can be read and tested alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"app", "regularizers", "datasets", "figures", "tests"}

# part -> prefixes of our own modules it may import; and outside packages it must not.
RULES: dict[str, tuple[set[str], set[str]]] = {
    "regularizers": ({"regularizers"}, {"numpy", "skimage", "matplotlib"}),
    "datasets": ({"datasets"}, {"deepinv"}),
    "figures": ({"figures"}, {"deepinv"}),
    "app/lower": ({"app.lower"}, {"deepinv", "numpy"}),
    "app/upper": ({"app.lower", "app.upper"}, {"deepinv", "numpy"}),
    "app/losses.py": (set(), {"deepinv"}),
    "app/options.py": (set(), {"torch", "deepinv", "numpy"}),
    "app/config.py": ({"app.options"}, {"torch", "deepinv", "numpy"}),
    "app/physics.py": ({"datasets"}, set()),
    "app/guided.py": ({"app.lower", "regularizers"}, {"deepinv", "numpy"}),
    "app/semi_blind.py": ({"app.lower", "datasets", "regularizers"}, {"deepinv", "numpy"}),
    "app/training": (
        {
            "app.lower",
            "app.upper",
            "app.training",
            "app.config",
            "app.options",
            "app.files",
            "app.guided",
            "app.losses",
            "app.models",
            "app.physics",
            "app.provenance",
            "app.semi_blind",
        }
        | {"datasets", "regularizers"},
        {"deepinv"},
    ),
}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def matches(name: str, prefixes: set[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


@pytest.mark.parametrize("part", RULES)
def test_imports_point_one_way(part):
    allowed, forbidden = RULES[part]
    path = ROOT / part
    for file in [path] if path.is_file() else path.rglob("*.py"):
        for name in imported(file):
            if name.split(".")[0] in OURS:
                assert matches(name, allowed), f"{file} imports {name}"
            assert not matches(name, forbidden), f"{file} imports {name}"


def test_only_physics_imports_deepinv_physics():
    users = [f for f in (ROOT / "app").rglob("*.py") if any("deepinv.physics" in n for n in imported(f))]
    assert [f.name for f in users] == ["physics.py"]
