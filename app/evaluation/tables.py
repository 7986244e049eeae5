"""Evaluations as text: one line per method, or one per image."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from math import inf
from pathlib import Path
from statistics import fmean

from app.evaluation.evaluate import Evaluation
from app.lower.solution import NOT_CERTIFIED, rounded_up
from app.settings.options import ConfigError
from datasets.files import read_file
from figures.style import escape
from figures.table import NONE, booktabs, pipes, standard_error


def summary_table(methods: dict[str, list[Evaluation]]) -> str:
    """Write means over the images, the degraded measurements first; baselines have no certificates."""
    width = max(len("degraded"), *(len(name) for name in methods))
    first = next(iter(methods.values()))
    several = len(first) > 1
    psnr_head = "PSNR ± SE" if several else "PSNR"
    quality, cost = f"{psnr_head:>12}  {'SSIM':>6}", f"{'certified':>9}  {'max bound':>9}  {'iterations':>10}"
    distances = _distances(methods)
    quality += "".join(f"  {name:>6}" for name in distances)
    lines = [f"{'':{width}}  {quality}  {cost}  {'s/image':>7}  {'parameters':>10}"]
    degraded = _with_error([e.psnr_degraded for e in first], "±")
    lines.append(f"{'degraded':{width}}  {degraded:>12}  {_ssim(e.ssim_degraded for e in first):>6}")
    for name, rows in methods.items():
        quality = f"{_with_error([e.psnr for e in rows], '±'):>12}  {_ssim(e.ssim for e in rows):>6}"
        quality += "".join(f"  {_ssim(e.lpips for e in rows):>6}" for _ in distances)
        cost = f"{_certificates(rows):32}  {fmean(e.seconds for e in rows):7.2f}  {_parameters(rows):>10}"
        lines.append(f"{name:{width}}  {quality}  {cost}")
    if several:
        lines.append(f"± SE: standard error of the mean PSNR over the {len(first)} images")
    lines += [f"{name}: {NOT_CERTIFIED}" for name, rows in methods.items() if all(e.error_bound == inf for e in rows)]
    return "\n".join(lines)


def _distances(methods: dict[str, list[Evaluation]]) -> tuple[str, ...]:
    """Return the names of the columns of distances that were computed: LPIPS, or none."""
    return ("LPIPS",) if any(e.lpips is not None for rows in methods.values() for e in rows) else ()


def _parameters(rows: list[Evaluation]) -> str:
    """'13602', or 'none' of a classical method."""
    count = rows[0].parameters
    return NONE if count is None else str(count)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that there are: small images have no SSIM, baselines no certificates."""
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def _ssim(values: Iterable[float | None]) -> str:
    mean = _mean(values)
    return "-" if mean is None else f"{mean:.4f}"


def _certificates(rows: list[Evaluation]) -> str:
    bounds, iterations = _column(rows, "error_bound"), _column(rows, "iterations")
    if bounds is None or iterations is None:
        return f"{NONE:>9}"
    certified = f"{sum(bool(e.converged) for e in rows)}/{len(rows)}"
    return f"{certified:>9}  {rounded_up(max(bounds), 2):>9}  {fmean(iterations):10.1f}"


def _column(rows: list[Evaluation], name: str) -> list[float] | None:
    """None where a method has no such numbers."""
    values = [getattr(row, name) for row in rows]
    return None if None in values else values


def _with_error(values: list[float], sign: str) -> str:
    """'28.05 ± 0.31': the mean and its standard error, which a single value has not."""
    return f"{fmean(values):.2f}" + (f" {sign} {standard_error(values):.2f}" if len(values) > 1 else "")


COLUMNS = (
    "psnr", "ssim", "psnr_degraded", "error_bound", "relative_bound", "iterations", "seconds", "lpips", "parameters",
    "training",
)  # fmt: skip


def csv_table(rows: list[Evaluation]) -> str:
    """Write one row per image and a last row `mean`; what a method or an image does not have is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", *COLUMNS])
    writer.writerows([row.image, *(getattr(row, c) for c in COLUMNS)] for row in rows)
    writer.writerow(["mean", *(_mean(getattr(row, c) for row in rows) for c in COLUMNS)])
    return out.getvalue()


def read_csv(path: Path) -> dict[str, dict[str, float]]:
    """Read what `csv_table` wrote: metric -> image -> value, without means and empty cells. Raises ConfigError.

    Older files name images by their stems, which may coincide: then they are numbered.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_file(path).decode("utf-8-sig"))))
        rows = rows[:-1] if rows[-1]["image"] == "mean" else rows
        if any(row["image"] == "mean" for row in rows) and any(Path(row["image"]).suffix for row in rows):
            raise ConfigError(f"{path} holds several evaluations: give one file for each")
        seen, values = Counter(), {name: {} for name in rows[0] if name != "image"}
        for row in rows:
            seen[row["image"]] += 1
            image = row["image"] + (f" ({seen[row['image']]})" if seen[row["image"]] > 1 else "")
            for name, column in values.items():
                if row[name] != "":
                    column[image] = float(row[name])
        return {name: column for name, column in values.items() if column}
    except ConfigError:
        raise
    except (KeyError, ValueError, TypeError, IndexError):
        raise ConfigError(
            f"{path} is not an evaluation: make one with python -m app evaluate MODEL --images SET --csv {path}"
        ) from None


def markdown_table(methods: dict[str, list[Evaluation]]) -> str:
    """Write means as a Markdown table: the measurement first, then each method with its certificates and cost."""
    first = next(iter(methods.values()))
    distances = _distances(methods)
    cost = ("certified", "largest bound / norm of x", "gradients", "s/image", "parameters")
    heads = ("method", "PSNR ± SE", "SSIM", *distances, *cost)
    degraded = _with_error([e.psnr_degraded for e in first], "±")
    rows = [["degraded", degraded, _ssim(e.ssim_degraded for e in first), *[""] * (len(heads) - 3)]]
    for name, found in methods.items():
        bounds, iterations = _column(found, "relative_bound"), _column(found, "iterations")
        proof = (NONE, "", "")
        if bounds is not None and iterations is not None:
            largest = "stationary" if inf in bounds else f"{rounded_up(100 * max(bounds), 2)} %"
            proof = f"{sum(bool(e.converged) for e in found)}/{len(found)}", largest, f"{fmean(iterations):.0f}"
        quality = [_with_error([e.psnr for e in found], "±"), _ssim(e.ssim for e in found)]
        quality += [_ssim(e.lpips for e in found) for _ in distances]
        rows.append([name, *quality, *proof, f"{fmean(e.seconds for e in found):.2f}", _parameters(found)])
    return pipes(heads, rows)


def latex_table(methods: dict[str, list[Evaluation]]) -> str:
    r"""Write a booktabs table: mean PSNR, \pm its standard error, mean SSIM and LPIPS, certificates and parameters."""
    first = next(iter(methods.values()))
    distances = _distances(methods)
    heads = ["method", "PSNR (dB)", "SSIM", *distances, "certified", "parameters"]
    rows = [["degraded", _latex_psnr([e.psnr_degraded for e in first]), _ssim(e.ssim_degraded for e in first)]]
    rows[0] += [""] * (len(heads) - 3)
    for name, found in methods.items():
        quality = [_latex_psnr([e.psnr for e in found]), _ssim(e.ssim for e in found)]
        quality += [_ssim(e.lpips for e in found) for _ in distances]
        rows.append([escape(name), *quality, _certificates(found).split()[0], _parameters(found)])
    about = rf"% \pm: standard error of the mean PSNR over the {len(first)} images"
    return f"{about}\n{booktabs(heads, rows)}"


def _latex_psnr(values: list[float]) -> str:
    return f"${_with_error(values, chr(92) + 'pm')}$"
