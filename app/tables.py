"""Evaluations as text: one line per method, or one per image."""

import csv
import io
from math import isinf
from pathlib import Path
from statistics import fmean

from app.evaluate import Evaluation
from app.lower.solution import NOT_CERTIFIED
from app.options import ConfigError


def summary_table(methods: dict[str, list[Evaluation]]) -> str:
    """Means over the images, the degraded measurements first."""
    width = max(len("degraded"), *(len(name) for name in methods))
    heads = f"{'PSNR':>6}  {'SSIM':>6}  {'certified':>9}  {'max bound':>9}  {'iterations':>10}  {'s/image':>7}"
    lines = [f"{'':{width}}  {heads}"]
    first = next(iter(methods.values()))
    degraded = fmean(e.psnr_degraded for e in first), fmean(e.ssim_degraded for e in first)
    lines.append(f"{'degraded':{width}}  {degraded[0]:6.2f}  {degraded[1]:6.4f}")
    for name, rows in methods.items():
        certified = f"{sum(e.converged for e in rows)}/{len(rows)}"
        lines.append(
            f"{name:{width}}  {fmean(e.psnr for e in rows):6.2f}  {fmean(e.ssim for e in rows):6.4f}  {certified:>9}  "
            f"{max(e.error_bound for e in rows):9.2g}  {fmean(e.iterations for e in rows):10.1f}  "
            f"{fmean(e.seconds for e in rows):7.2f}"
        )
    lines += [f"{name}: {NOT_CERTIFIED}" for name, rows in methods.items() if all(isinf(e.error_bound) for e in rows)]
    return "\n".join(lines)


COLUMNS = ("psnr", "ssim", "psnr_degraded", "error_bound", "iterations", "seconds")


def csv_table(rows: list[Evaluation]) -> str:
    """One row per image and a last row `mean`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", *COLUMNS])
    writer.writerows([row.image, *(getattr(row, c) for c in COLUMNS)] for row in rows)
    writer.writerow(["mean", *(fmean(getattr(row, c) for row in rows) for c in COLUMNS)])
    return out.getvalue()


def read_csv(path: Path) -> dict[str, dict[str, float]]:
    """What `csv_table` wrote: metric -> image -> value, without the means. Raises ConfigError."""
    try:
        rows = [row for row in csv.DictReader(io.StringIO(path.read_text())) if row["image"] != "mean"]
        table = {name: {row["image"]: float(row[name]) for row in rows} for name in rows[0] if name != "image"}
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError, IndexError):
        raise ConfigError(
            f"{path} is not an evaluation: make one with python -m app evaluate MODEL --images SET --csv {path}"
        ) from None
    return table


def latex_table(methods: dict[str, list[Evaluation]]) -> str:
    """A booktabs table of mean PSNR and SSIM."""
    first = next(iter(methods.values()))
    rows = [("degraded", fmean(e.psnr_degraded for e in first), fmean(e.ssim_degraded for e in first))]
    rows += [(name, fmean(e.psnr for e in r), fmean(e.ssim for e in r)) for name, r in methods.items()]
    escape = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"})
    body = [f"{name.translate(escape)} & {p:.2f} & {s:.4f} \\\\" for name, p, s in rows]
    head = [r"\begin{tabular}{lrr}", r"\toprule", r"method & PSNR (dB) & SSIM \\", r"\midrule"]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}", ""])
