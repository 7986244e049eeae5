"""`report`."""

from pathlib import Path

from app.drawing.report import report_page
from app.files import write_atomically, write_own
from app.training.checkpoint import RunError


def report(run: Path, out: Path | None, images: str, data_root: Path) -> int:
    """Write the report of a finished run. Raises RunError where a file of the run is missing, or --out is no page."""
    for name in ("config.toml", "metrics.csv", "model.safetensors"):
        if not (run / name).is_file():
            raise RunError(f"{run} is not a finished run (no {name})")
    if out is not None and out.suffix not in (".html", ".htm"):
        raise RunError(f"--out {out}: a report is .html")
    page = report_page(run, images, data_root).encode()
    if out is None:
        out = run / "report.html"
        write_own(out, page)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page)
    print(out)
    return 0
