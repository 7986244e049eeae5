"""Imports point one way: the list of folders is the flow of the data, and each folder stands in it once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Every folder (or loose file) may import those before it, and itself. The number of the row is its height.
ORDER = (
    "datasets",
    "regularizers",
    "figures",
    "app/files.py",
    "app/interrupt.py",
    "app/ranks.py",
    "app/memory.py",
    "app/processes.py",
    "app/scale.py",
    "app/settings",
    "app/problem",
    "app/lower",
    "app/upper",
    "app/models",
    "app/assemble.py",
    "app/evaluation",
    "app/training",
    "app/checking",
    "app/drawing",
    "app/commands",
    "app/cli.py",
    "app/__main__.py",
    "scripts",
    "tests",
)

# What a part must not import: of our own parts that stand before it, and of other packages.
FORBIDDEN: dict[str, set[str]] = {
    "datasets": {"deepinv"},
    "regularizers": {"datasets", "numpy", "skimage", "matplotlib"},
    "figures": {"deepinv", "datasets", "regularizers"},
    "app/settings": {"torch", "deepinv", "numpy", "datasets", "regularizers", "figures"},
    "app/problem": {"figures", "app.settings"},
    "app/lower": {"deepinv", "numpy", "datasets", "regularizers", "figures", "app.settings"},
    "app/upper": {"deepinv", "numpy", "datasets", "regularizers", "figures", "app.settings"},
    "app/training": {"deepinv"},
}

# The protocol of a regularizer is all that the numerical core knows of them.
ALLOWED = {part: {"regularizers.functional"} for part in ("app/lower", "app/upper")}


def imported(file: Path) -> set[str]:
    """Return the full names of all that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def matches(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def files(part: str) -> list[Path]:
    path = ROOT / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def part_of(name: str) -> str | None:
    """Return the part that holds a module, the longest one that fits."""
    fitting = [p for p in ORDER if matches(name, p.removesuffix(".py").replace("/", "."))]
    return max(fitting, key=len, default=None)


@pytest.mark.parametrize("part", ORDER)
def test_imports_point_up_the_list_only(part):
    for file in files(part):
        for name in imported(file):
            other = part_of(name)
            assert other is None or ORDER.index(other) <= ORDER.index(part), f"{file} imports {name}"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_is_independent_of_what_it_need_not_know(part):
    for file in files(part):
        for name in imported(file):
            if not any(matches(name, prefix) for prefix in ALLOWED.get(part, ())):
                assert not any(matches(name, prefix) for prefix in FORBIDDEN[part]), f"{file} imports {name}"


def test_every_file_of_the_program_stands_in_the_list():
    for folder in ("app", "datasets", "regularizers", "figures"):
        for file in (ROOT / folder).rglob("*.py"):
            relative = str(file.relative_to(ROOT))
            assert relative == "app/__init__.py" or any(relative == p or relative.startswith(p + "/") for p in ORDER), (
                relative
            )


def test_no_module_imports_itself_through_others():
    """Circles within a folder are found by leaving out modules that import no remaining one."""
    modules = {}
    for folder in ("app", "datasets", "regularizers", "figures"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "__init__.py":
                modules[".".join(file.relative_to(ROOT).with_suffix("").parts)] = imported(file)
    left = {m: {o for o in modules if o != m and any(matches(n, o) for n in names)} for m, names in modules.items()}
    while ready := [m for m, others in left.items() if not others & left.keys()]:
        for module in ready:
            del left[module]
    assert not left, f"these import each other: {sorted(left)}"


def test_only_the_operators_import_deepinv_physics():
    users = [f for f in (ROOT / "app").rglob("*.py") if any("deepinv.physics" in n for n in imported(f))]
    assert {str(f.relative_to(ROOT)) for f in users} == {
        "app/problem/mri.py",
        "app/problem/operators.py",
        "app/problem/problem.py",
        "app/problem/stacked.py",
        "app/problem/tasks.py",
        "app/problem/tomography.py",
        "app/evaluation/adapted.py",
        "app/evaluation/networks.py",
        "app/evaluation/reconstructor.py",
    }


def test_a_star_imports_the_public_names():
    names: dict[str, object] = {}
    exec("from app import *", names)
    assert {"Problem", "fit", "load", "Regularizer"} <= names.keys() and "import_module" not in names
