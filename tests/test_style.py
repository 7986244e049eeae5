"""What a test can see of the habits of the code: docstrings, shapes, errors, sizes of functions."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    str(file.relative_to(ROOT))
    for folder in ("app", "regularizers", "datasets", "figures", "scripts")
    for file in sorted((ROOT / folder).rglob("*.py"))
]

LINES, PARAMETERS = 40, 6
# A shape: letters, numbers and arithmetic in brackets with a comma, such as (B, C, H, W), (N,) or (..., 2 r + 1).
SHAPE = re.compile(r"\(\s*[\w.+*/'^ -]+,[\w.,+*/'^ -]*\)|\[\]|scalar")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def functions(file: str) -> list[tuple[str, Function, bool]]:
    """Return (name, function, whether it is a method) of all functions that are not inside others."""
    found = []
    for node in parsed(file).body:
        if isinstance(node, Function):
            found.append((node.name, node, False))
        elif isinstance(node, ast.ClassDef):
            found += [(f"{node.name}.{m.name}", m, True) for m in node.body if isinstance(m, Function)]
    return found


def public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


def code_lines(function: Function) -> int:
    """Return the lines of a function without its docstring."""
    docstring = ast.get_docstring(function, clean=False)
    own = 0 if docstring is None else docstring.count("\n") + 1
    return (function.end_lineno or function.lineno) - function.lineno + 1 - own


def parameters(function: Function, method: bool) -> int:
    a = function.args
    return len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs) - method


@pytest.mark.parametrize("file", FILES)
def test_long_functions_and_long_signatures_say_why(file):
    """A docstring that gives a reason speaks of the lines, the length, the parameters or the arguments."""
    for name, function, method in functions(file):
        text = ast.get_docstring(function) or ""
        if code_lines(function) > LINES:
            assert re.search(r"\blines\b|\blong\b|\btable\b", text), f"{file}: {name} has {code_lines(function)} lines"
        if parameters(function, method) > PARAMETERS:
            count = parameters(function, method)
            owner = next(
                (c for c in parsed(file).body
                 if isinstance(c, ast.ClassDef) and c.name == name.partition(".")[0]), None
            )  # fmt: skip
            text += (ast.get_docstring(owner) or "") if owner is not None else ""
            assert re.search(r"\bparameters\b|\barguments\b", text), f"{file}: {name} has {count} parameters"


@pytest.mark.parametrize("file", FILES)
def test_docstrings_are_sentences(file):
    """Every module, public class and public function has one; its first paragraph ends with a full stop or leads over
    to a formula with a colon or comma; it begins with a capital letter or a formula."""
    tree = parsed(file)
    if tree.body:
        assert ast.get_docstring(tree), f"{file} has no docstring"
    documented = [(n.name, n) for n in tree.body if isinstance(n, ast.ClassDef) and public(n.name)]
    documented += [(name, f) for name, f, method in functions(file) if public(name) and not method]
    for name, node in documented:
        text = ast.get_docstring(node)
        assert text, f"{file}: {name} has no docstring"
    methods = [(name, f) for name, f, method in functions(file) if method and ast.get_docstring(f)]
    for name, node in [*documented, *methods]:
        text = ast.get_docstring(node) or ""
        first = text.split("\n\n")[0].strip()
        assert first.endswith((".", ":", ",", ";", ")")), f"{file}: {name}: {first!r}"
        assert len(first.split()) >= 3, f"{file}: {name}: {first!r} is no sentence"


@pytest.mark.parametrize("file", FILES)
def test_functions_begin_with_a_verb(file):
    """The first word of a public function's docstring is a verb in the imperative."""
    for name, function, method in functions(file):
        text = ast.get_docstring(function)
        properties = [d.id for d in function.decorator_list if isinstance(d, ast.Name)]
        if not text or not public(name) or method or "property" in properties:
            continue
        word = text.split()[0].strip(".,:;")
        assert word in VERBS, f"{file}: {name} begins with {word!r}"


VERBS = set(
    """
    Add Adopt Apply Assemble Assess Ask Begin Bound Build Check Choose Claim Clip Collect Compare Compile Complete
    Compose Compute Continue Convolve Copy Count Crop Cut Decide Degrade Describe Differentiate Display Download
    Draw Embed Ensure Estimate Evaluate Extract Fetch Find Fit Format Give Go Guess Hold Initialize Interpolate Join
    Keep Learn List Load Log Look Make Map Mark Measure Minimise Move Name Note Observe Open Pad Parse Perform Place
    Prepare Print Project Prove Pull Put Raise Read Reconstruct Record Refuse Register Remember Render Repeat
    Replace Require Resolve Restore Resume Return Run Sample Save Say Ship Show Solve Split Spread Start Step Stop
    Sum Swap Take Tell Test Time Train Transform Try Tune Turn Update Use Validate Verify Warn Wrap Write Yield
    """.split()  # noqa: SIM905
)


@pytest.mark.parametrize("file", FILES)
def test_functions_of_tensors_say_their_shapes(file):
    """Where a tensor comes in or goes out, a shape stands on the signature or in the docstring."""
    lines = (ROOT / file).read_text().splitlines()
    for name, function, method in functions(file):
        if method or not public(name):
            continue
        a = function.args
        annotations = [p.annotation for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)] + [function.returns]
        if not any(isinstance(n, ast.Name) and n.id == "Tensor" for n in annotations):
            continue
        body = function.body[0]
        end = body.end_lineno if ast.get_docstring(function) else body.lineno
        head = "\n".join(lines[function.lineno - 1 : end])
        head = head.partition("def ")[2].partition("(")[2]
        assert SHAPE.search(head[head.find(")") :]) or SHAPE.search(head), f"{file}: {name} says no shape"


@pytest.mark.parametrize("file", FILES)
def test_errors_of_the_user_are_named(file):
    """A public function that raises an error of ours itself says so in its docstring."""
    for name, function, method in functions(file):
        if not public(name) or (method and not ast.get_docstring(function)):
            continue
        raised = {
            n.exc.func.id
            for n in ast.walk(function)
            if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call) and isinstance(n.exc.func, ast.Name)
        }
        for error in raised - {"AssertionError", "NotImplementedError", "KeyboardInterrupt"}:
            if error.endswith("Error"):
                assert error in (ast.get_docstring(function) or ""), (
                    f"{file}: {name} raises {error} and does not say so"
                )
