"""Evaluations of several methods as a table for a paper: means and their standard errors."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from figures.style import FigureError, escape

Evaluated = dict[str, dict[str, float]]  # metric -> image -> value
NONE = "none"  # where a method has no such thing


@dataclass(frozen=True)
class Metric:
    """How a column of a table is titled, rounded and ranked."""

    title: str
    digits: int
    best: Callable[..., float]  # max or min


METRICS = {
    "psnr": Metric("PSNR (dB)", 2, max), "ssim": Metric("SSIM", 4, max), "lpips": Metric("LPIPS", 4, min),
    "error_bound": Metric("certified error", 3, min), "certified": Metric("certified (share)", 2, max),
    "iterations": Metric("gradients", 1, min), "seconds": Metric("seconds", 2, min),
    "parameters": Metric("parameters", 0, min), "training": Metric("training (s)", 0, min),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A number of a table."""

    mean: float
    error: float  # standard error of the mean; NaN for a single image
    rank: int  # 0 best, 1 second, 2 the rest; as printed


def latex(methods: dict[str, Evaluated], metrics: tuple[str, ...] = ("psnr", "ssim"), errors: bool = True) -> str:
    r"""Return a booktabs tabular, the best value of a column bold and the second underlined. Raises FigureError."""
    marks = (r"\mathbf{%s}", r"\underline{%s}", "%s")
    cells = _printed(methods, metrics, marks, r"\pm" if errors else "")
    body = [[escape(name), *(t if t == NONE else f"${t}$" for t in row)] for name, row in cells.items()]
    return booktabs(["method", *(METRICS[name].title for name in metrics)], body)


def booktabs(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a LaTeX tabular of booktabs, the first column flush left. Cells are LaTeX."""
    first, *rows = (" & ".join(row) + r" \\" for row in (head, *body))
    begin = rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
    return "\n".join([begin, r"\toprule", first, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def markdown(methods: dict[str, Evaluated], metrics: tuple[str, ...] = ("psnr", "ssim"), errors: bool = True) -> str:
    """Return the same table in Markdown. Raises FigureError."""
    cells = _printed(methods, metrics, ("**%s**", "<u>%s</u>", "%s"), "±" if errors else "")
    head = ["method", *(METRICS[name].title for name in metrics)]
    return pipes(head, [[name, *row] for name, row in cells.items()], "---:")


def pipes(head: Sequence[str], body: Iterable[Sequence[str]], rule: str = "---") -> str:
    """Return a Markdown table. rule: below every head but the first, ---: for columns flush right."""
    rows = [head, ["---", *[rule] * (len(head) - 1)], *([cell.replace("|", r"\|") for cell in row] for row in body)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _printed(
    methods: dict[str, Evaluated], metrics: tuple[str, ...], marks: tuple[str, ...], sign: str
) -> dict[str, list[str]]:
    """Write means in the marks of their ranks, and behind the sign, if any, their standard errors."""

    def text(cell: Cell | None, digits: int) -> str:
        if cell is None:
            return NONE
        error = f" {sign} {cell.error:.{digits}f}" if sign and math.isfinite(cell.error) and cell.error else ""
        return marks[cell.rank] % f"{cell.mean:.{digits}f}" + error

    digits = [METRICS[name].digits for name in metrics]
    return {name: list(map(text, row, digits)) for name, row in summarize(methods, metrics).items()}


def summarize(methods: dict[str, Evaluated], metrics: tuple[str, ...]) -> dict[str, list[Cell | None]]:
    """Compute the cells of every method, one per metric; None where it has no such metric. Raises FigureError where no
    method has it, and where a method lacks an image that another has."""
    columns = [_column(methods, metric) for metric in metrics]
    return {name: [column.get(name) for column in columns] for name in methods}


def _column(methods: dict[str, Evaluated], name: str) -> dict[str, Cell]:
    """Return the cells of the methods that have a metric."""
    found, metric = {method: e[name] for method, e in methods.items() if name in e}, METRICS[name]
    if not found:
        raise FigureError(f"{', '.join(methods)}: no metric {name!r}")
    everywhere = set().union(*found.values())
    for method, values in found.items():
        if missing := sorted(everywhere - values.keys()):
            raise FigureError(f"{method} lacks the image {missing[0]!r}; a table needs the same images of all")
        if unknown := sorted(image for image, value in values.items() if math.isnan(value)):
            raise FigureError(f"{method}: {name} of {unknown[0]!r} is no number")
    means = {method: fmean(values.values()) for method, values in found.items()}
    ranking = sorted({round(mean, metric.digits) for mean in means.values()}, reverse=metric.best is max)
    ranks = {m: min(ranking.index(round(mean, metric.digits)), 2) for m, mean in means.items()}
    return {
        method: Cell(means[method], standard_error(list(values.values())), ranks[method] if len(ranking) > 1 else 2)
        for method, values in found.items()
    }


def standard_error(values: list[float]) -> float:
    """Return the standard error of the mean, NaN for a single value and where one is infinite, as a PSNR may be."""
    known = len(values) > 1 and all(math.isfinite(value) for value in values)
    return stdev(values) / math.sqrt(len(values)) if known else math.nan
