"""Evaluations of several methods as a table for a paper: means and their standard errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev

from figures.style import FigureError, escape

Evaluated = dict[str, dict[str, float]]  # metric -> image -> value


@dataclass(frozen=True)
class Metric:
    """How a column of a table is titled, rounded and ranked."""

    title: str
    digits: int
    best: Callable[..., float]  # max or min


METRICS = {
    "psnr": Metric("PSNR (dB)", 2, max), "ssim": Metric("SSIM", 4, max), "lpips": Metric("LPIPS", 4, min),
    "error_bound": Metric("certified error", 3, min), "iterations": Metric("gradients", 1, min),
    "seconds": Metric("seconds", 2, min), "parameters": Metric("parameters", 0, min),
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
    head = " & ".join(["method", *(METRICS[name].title for name in metrics)])
    body = [" & ".join([escape(name), *(f"${text}$" for text in row)]) for name, row in cells.items()]
    lines = [head + r" \\", r"\midrule", *(line + r" \\" for line in body)]
    return "\n".join(
        [rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", ""]
    )


def markdown(methods: dict[str, Evaluated], metrics: tuple[str, ...] = ("psnr", "ssim"), errors: bool = True) -> str:
    """Return the same table in Markdown. Raises FigureError."""
    cells = _printed(methods, metrics, ("**%s**", "<u>%s</u>", "%s"), "±" if errors else "")
    rows = [["method", *(METRICS[name].title for name in metrics)], ["---", *(["---:"] * len(metrics))]]
    rows += [[name.replace("|", r"\|"), *row] for name, row in cells.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _printed(
    methods: dict[str, Evaluated], metrics: tuple[str, ...], marks: tuple[str, ...], sign: str
) -> dict[str, list[str]]:
    """Write means in the marks of their ranks, and behind the sign, if any, their standard errors."""

    def text(cell: Cell, digits: int) -> str:
        error = f" {sign} {cell.error:.{digits}f}" if sign and math.isfinite(cell.error) else ""
        return marks[cell.rank] % f"{cell.mean:.{digits}f}" + error

    digits = [METRICS[name].digits for name in metrics]
    return {name: list(map(text, row, digits)) for name, row in summarize(methods, metrics).items()}


def summarize(methods: dict[str, Evaluated], metrics: tuple[str, ...]) -> dict[str, list[Cell]]:
    """Compute the cells of every method, one per metric. Raises FigureError where a method lacks a metric or an image
    that another has."""
    for metric in metrics:
        everywhere = {image for evaluated in methods.values() for image in evaluated.get(metric, {})}
        for name, evaluated in methods.items():
            if metric not in evaluated:
                raise FigureError(f"{name} has no metric {metric!r}; it has {', '.join(evaluated)}")
            if missing := sorted(everywhere - evaluated[metric].keys()):
                raise FigureError(f"{name} lacks the image {missing[0]!r}; a table needs the same images of all")
    columns = [_column([evaluated[metric] for evaluated in methods.values()], METRICS[metric]) for metric in metrics]
    return {name: [column[i] for column in columns] for i, name in enumerate(methods)}


def _column(values: list[dict[str, float]], metric: Metric) -> list[Cell]:
    means = [fmean(v.values()) for v in values]
    printed = [round(mean, metric.digits) for mean in means]
    ranking = sorted(set(printed), reverse=metric.best is max)
    ranks = [min(ranking.index(p), 2) if len(ranking) > 1 else 2 for p in printed]
    return [Cell(m, standard_error(list(v.values())), r) for m, v, r in zip(means, values, ranks, strict=True)]


def standard_error(values: list[float]) -> float:
    """Return the standard error of the mean, NaN for a single value and where one is infinite, as a PSNR may be."""
    known = len(values) > 1 and all(math.isfinite(value) for value in values)
    return stdev(values) / math.sqrt(len(values)) if known else math.nan
