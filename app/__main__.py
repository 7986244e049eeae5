"""`python -m app`."""

import os
from importlib.util import find_spec
from pathlib import Path

from app.cli import main
from app.interrupt import install

if __name__ == "__main__":
    # Figures are files that depend on their content alone: not on the backend of a notebook that starts this program,
    # which may not even exist here, nor on the user's matplotlibrc or a date.
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin:
        os.environ["MATPLOTLIBRC"] = str(Path(matplotlib.origin).parent / "mpl-data" / "matplotlibrc")
    os.environ["MPLBACKEND"] = "agg"
    os.environ.pop("SOURCE_DATE_EPOCH", None)
    install()
    raise SystemExit(main())
