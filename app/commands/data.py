"""`data list`, `data fetch` and `data check`."""

import sys
from pathlib import Path

from datasets.fetch import FetchError, check_folder, fetch_bsds500
from datasets.image_sets import BSDS500_SPLITS, BUILTIN, bsds500_folder, find_images
from datasets.images import ImageError


def list_sets(data_root: Path) -> int:
    print(f"builtin   photographs that ship with scikit-image, splits {', '.join(BUILTIN)}")
    for split in BUILTIN:
        grey, color = (len(find_images(f"builtin:{split}", data_root, c).paths) for c in (False, True))
        print(f"  builtin:{split:6} {grey} grey, {color} colour")
    print("bsds500   Berkeley Segmentation Data Set, 481 x 321 RGB")
    try:
        print(f"  in {bsds500_folder(data_root)}")
        for split in BSDS500_SPLITS:
            print(f"  bsds500:{split:6} {len(find_images(f'bsds500:{split}', data_root, True).paths)}")
    except ImageError as error:
        print(f"  {error}")
    print("FOLDER    any folder of PNG, JPEG, TIFF or BMP images; IMAGE, a single file")
    return 0


def fetch(name: str, data_root: Path, quiet: bool) -> int:
    _known(name)
    folder = fetch_bsds500(data_root, quiet=quiet)
    print(f"{folder}: 500 images, checksums verified")
    return 0


def check(name: str, data_root: Path) -> int:
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
