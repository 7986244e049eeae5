"""The download of BSDS500, which is verified image by image."""

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import pooch

from datasets.temporary import locked, remove_leftovers

# The repository that republishes the images of https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/. GitHub
# does not promise the same bytes for an archive twice, so the images are verified, not the archive.
URL = "https://github.com/BIDS/BSDS500/archive/refs/heads/master.zip"
MANIFEST = Path(__file__).parent / "bsds500.sha256"


class FetchError(ValueError):
    """A download failed or does not hold what it should; nothing was left behind."""


def read_manifest() -> dict[str, str]:
    """Read the SHA-256 of every image by its name `split/name.jpg`."""
    rows = (line.split() for line in MANIFEST.read_text().splitlines())
    return {name: digest for digest, name in rows}


def check_folder(folder: Path, manifest: dict[str, str] | None = None) -> list[str]:
    """List the files that are missing or altered, one line each."""
    problems = []
    for name, digest in (manifest or read_manifest()).items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            problems.append(f"{file} differs from the published image")
    return problems


def fetch_bsds500(
    data_root: Path, url: str = URL, manifest: dict[str, str] | None = None, quiet: bool = False
) -> Path:  # -> data_root / BSDS500
    """Download, verify, and only then move the images into place. An interrupted download leaves nothing, and what a
    killed one left is removed.

    Raises FetchError if the download fails, an image is missing or altered, or the folder already exists.
    """
    manifest = manifest or read_manifest()
    target = data_root / "BSDS500"
    remove_leftovers(data_root.glob(".fetch-*"))
    if target.exists():
        raise FetchError(f"{target} exists already: verify it with `data check bsds500`, or remove it first")
    data_root.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")  # the progress bar says enough
    with tempfile.TemporaryDirectory(dir=data_root, prefix=".fetch-") as temporary, locked(Path(temporary)):
        try:
            archive = pooch.retrieve(url, known_hash=None, path=temporary, fname="archive.zip", progressbar=not quiet)
        except Exception as error:  # requests and pooch raise many kinds
            raise FetchError(f"cannot download {url}: {error}") from None
        images = Path(temporary) / "BSDS500"
        _extract(Path(archive), images, manifest)
        problems = check_folder(images, manifest)
        if problems:
            raise FetchError(f"the download is not the published set: {problems[0]} ({len(problems)} files wrong)")
        images.rename(target)
    return target


def _extract(archive: Path, folder: Path, manifest: dict[str, str]) -> None:
    """Extract the images of the manifest, wherever the archive keeps their split folders."""
    try:
        with zipfile.ZipFile(archive) as files:
            for member in files.namelist():
                name = "/".join(PurePosixPath(member).parts[-2:])
                if name in manifest:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with files.open(member) as source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except zipfile.BadZipFile as error:
        raise FetchError(f"the download is not a zip archive: {error}") from None
