"""Run the examples of both papers, print what was claimed and what was found, and draw them."""

import argparse
import time
from pathlib import Path

from torch import Tensor

from app.files import write_own
from app.training.verdicts import csv_table, markdown
from figures import rates
from figures.style import PAPER, save
from scripts.toys.claims import of_moreau, of_ravines, rows
from scripts.toys.moreau import EXAMPLES, Course, course
from scripts.toys.ravines import KINDS, RAVINES, descend


def ravines() -> dict[str, dict[str, Tensor]]:
    """Return f - min f of every method on every example of GDPolyak."""
    return {name: {kind: descend(make(), kind) for kind in KINDS} for name, make in RAVINES.items()}


def courses() -> dict[str, Course]:
    """Return what MEHA does on its examples."""
    return {name: course(make()) for name, make in EXAMPLES.items()}


def draw(falls: dict[str, dict[str, Tensor]], found: dict[str, Course], folder: Path) -> None:
    """Draw both papers as gd-polyak.png and meha.png in a folder."""
    falls = {n: {k: v.clamp(min=1e-32) for k, v in methods.items()} for n, methods in falls.items()}
    save(rates.draw(falls, "gradients", r"$f - \min f$", PAPER), folder / "gd-polyak.png")
    lines = {n: {"distance": c.distance, "residual R": c.residual, "||w - w*||": c.lag} for n, c in found.items()}
    lines = {n: {k: v.clamp(min=1e-16) for k, v in quantities.items()} for n, quantities in lines.items()}
    save(rates.draw(lines, "iterations", "value", PAPER, log_x=True), folder / "meha.png")


def main() -> None:
    """Print the page of claims, and write it with its figures where a folder is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write toys.md, claims.csv and two figures there")
    o = parser.parse_args()
    start = time.perf_counter()
    falls, found = ravines(), courses()
    claims = rows([*of_ravines(falls), *of_moreau(found)])
    text = markdown(claims)
    print(text, end="")
    print(f"\n{time.perf_counter() - start:.0f} s on this machine")
    if o.out:
        o.out.mkdir(parents=True, exist_ok=True)
        draw(falls, found, o.out)
        write_own(o.out / "toys.md", text.encode())
        write_own(o.out / "claims.csv", csv_table(claims).encode())


if __name__ == "__main__":
    main()
