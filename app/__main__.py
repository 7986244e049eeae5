"""`python -m app`."""

import os

from app.cli import main
from app.interrupt import install

if __name__ == "__main__":
    # Figures are files: the backend of a notebook that starts this program may not even exist here.
    os.environ["MPLBACKEND"] = "agg"
    install()
    raise SystemExit(main())
