"""Files of the user: read only where they are regular ones of a bounded size, and named so that a terminal is safe."""

import os
from pathlib import Path


def home_expanded(name: str | Path) -> Path:
    """Return a path whose ~ is replaced; of a user who is not known, the path as it is, which does not exist then."""
    return Path(os.path.expanduser(name))
