"""`data list`, `data fetch` and `data check`."""

import sys
from pathlib import Path

from datasets.fetch import FetchError, check_folder, fetch_bsds500
from datasets.image_sets import bsds500_folder, overview


def list_sets(data_root: Path) -> int:
    """Print which image sets there are."""
    print(overview(data_root))
    return 0


def fetch(name: str, data_root: Path, quiet: bool) -> int:
    """Download a set and verify it. Raises FetchError."""
    _known(name)
    folder = fetch_bsds500(data_root, quiet=quiet)
    print(f"{folder}: 500 images, checksums verified")
    return 0


def check(name: str, data_root: Path) -> int:
    """Compare the files of a set with their checksums. Raises FetchError and ImageError."""
    _known(name)
    folder = bsds500_folder(data_root)
    problems = check_folder(folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{folder}: {'all 500 checksums agree' if not problems else f'{len(problems)} of 500 files are wrong'}")
    return 2 if problems else 0


def _known(name: str) -> None:
    if name != "bsds500":
        raise FetchError(f"unknown set {name!r}: bsds500 is the only one to fetch or check")
