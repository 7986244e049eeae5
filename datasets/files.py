"""Files of the user: read only where they are regular ones of a bounded size, and named so that a terminal is safe."""

import os
import stat
from pathlib import Path

LARGEST = 2**31  # bytes; the largest image that is read (see decode.py) has fewer, in 32 bits and RGB


def default_data_root() -> Path:
    """Return the folder that holds image sets and kernels where nobody names another: $APP_DATA_ROOT, or ./data."""
    return Path(os.environ.get("APP_DATA_ROOT") or "data")


def home_expanded(name: str | Path) -> Path:
    """Return a path whose ~ is replaced; of a user who is not known, the path as it is, which does not exist then."""
    return Path(os.path.expanduser(name))


def printable(name: object) -> str:
    """Return a text whose control characters are escaped: file names may hold any."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def in_short(error: Exception) -> str:
    """Return the first line of what a library says; some append a trace of their own."""
    return printable((str(error) or type(error).__name__).splitlines()[0])


def read_file(path: Path) -> bytes:
    """Return the contents of a regular file. Raises ValueError that says why not: devices and pipes never end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > LARGEST:
            raise ValueError(f"it has {status.st_size} bytes; at most {LARGEST} are read")
        with path.open("rb") as file:
            return file.read(LARGEST)
    except OSError as error:
        raise ValueError(error.strerror) from None
