"""Evaluations as text: one line per method, or one per image."""

import csv
import io
from math import inf
from pathlib import Path
from statistics import fmean

from app.evaluation.evaluate import Evaluation
from app.lower.solution import NOT_CERTIFIED
from app.settings.options import ConfigError
from figures.style import escape
from figures.table import standard_error


def summary_table(methods: dict[str, list[Evaluation]]) -> str:
    """Write means over the images, the degraded measurements first; the certificates of baselines are empty."""
    width = max(len("degraded"), *(len(name) for name in methods))
    first = next(iter(methods.values()))
    several = len(first) > 1
    psnr_head = "PSNR ± SE" if several else "PSNR"
    heads = f"{psnr_head:>12}  {'SSIM':>6}  {'certified':>9}  {'max bound':>9}  {'iterations':>10}  {'s/image':>7}"
    lines = [f"{'':{width}}  {heads}"]
    degraded = _with_error([e.psnr_degraded for e in first], "±")
    lines.append(f"{'degraded':{width}}  {degraded:>12}  {fmean(e.ssim_degraded for e in first):6.4f}")
    for name, rows in methods.items():
        quality = f"{_with_error([e.psnr for e in rows], '±'):>12}  {fmean(e.ssim for e in rows):6.4f}"
        lines.append(f"{name:{width}}  {quality}  {_certificates(rows):>32}  {fmean(e.seconds for e in rows):7.2f}")
    if several:
        lines.append(f"± SE: standard error of the mean PSNR over the {len(first)} images")
    lines += [f"{name}: {NOT_CERTIFIED}" for name, rows in methods.items() if all(e.error_bound == inf for e in rows)]
    return "\n".join(lines)


def _certificates(rows: list[Evaluation]) -> str:
    bounds, iterations = _column(rows, "error_bound"), _column(rows, "iterations")
    if bounds is None or iterations is None:
        return ""
    certified = f"{sum(bool(e.converged) for e in rows)}/{len(rows)}"
    return f"{certified:>9}  {max(bounds):9.2g}  {fmean(iterations):10.1f}"


def _column(rows: list[Evaluation], name: str) -> list[float] | None:
    """None where a method has no such numbers."""
    values = [getattr(row, name) for row in rows]
    return None if None in values else values


def _with_error(values: list[float], sign: str) -> str:
    """'28.05 ± 0.31': the mean and its standard error, which a single value has not."""
    return f"{fmean(values):.2f}" + (f" {sign} {standard_error(values):.2f}" if len(values) > 1 else "")


COLUMNS = ("psnr", "ssim", "psnr_degraded", "error_bound", "iterations", "seconds")


def csv_table(rows: list[Evaluation]) -> str:
    """Write one row per image and a last row `mean`; what a method does not have is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", *COLUMNS])
    writer.writerows([row.image, *(getattr(row, c) for c in COLUMNS)] for row in rows)
    columns = [_column(rows, c) for c in COLUMNS]
    writer.writerow(["mean", *(None if values is None else fmean(values) for values in columns)])
    return out.getvalue()


def read_csv(path: Path) -> dict[str, dict[str, float]]:
    """Read what `csv_table` wrote: metric -> image -> value, without means and empty metrics. Raises ConfigError."""
    try:
        rows = [row for row in csv.DictReader(io.StringIO(path.read_text())) if row["image"] != "mean"]
        names = [name for name in rows[0] if name != "image" and any(row[name] != "" for row in rows)]
        return {name: {row["image"]: float(row[name]) for row in rows} for name in names}
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError, IndexError):
        raise ConfigError(
            f"{path} is not an evaluation: make one with python -m app evaluate MODEL --images SET --csv {path}"
        ) from None


def latex_table(methods: dict[str, list[Evaluation]]) -> str:
    r"""Write a booktabs table of mean PSNR, \pm its standard error, and mean SSIM."""
    first = next(iter(methods.values()))
    rows = [("degraded", [e.psnr_degraded for e in first], fmean(e.ssim_degraded for e in first))]
    rows += [(name, [e.psnr for e in r], fmean(e.ssim for e in r)) for name, r in methods.items()]
    body = [rf"{escape(name)} & ${_with_error(p, chr(92) + 'pm')}$ & {s:.4f} \\" for name, p, s in rows]
    about = rf"% \pm: standard error of the mean PSNR over the {len(first)} images"
    head = [r"\begin{tabular}{lrr}", r"\toprule", r"method & PSNR (dB) & SSIM \\", r"\midrule"]
    return "\n".join([about, *head, *body, r"\bottomrule", r"\end{tabular}", ""])
