"""`python -m app`."""

import os
import sys
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path

from app.cli import main
from app.interrupt import install

# Threads that spin while they wait make a second program on the same cores several times slower; alone, nothing is
# gained by them. Read when torch is imported, which main() does.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

if __name__ == "__main__":
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    # Figures are files that depend on their content alone: not on the backend of a notebook that starts this program,
    # which may not even exist here, nor on the user's matplotlibrc or a date.
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin:
        os.environ["MATPLOTLIBRC"] = str(Path(matplotlib.origin).parent / "mpl-data" / "matplotlibrc")
    os.environ["MPLBACKEND"] = "agg"
    os.environ.pop("SOURCE_DATE_EPOCH", None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a sign that the terminal has not must end no work
            stream.reconfigure(errors="backslashreplace")
    install()
    code = main()
    if code > 128:
        # Caught or not, a KeyboardInterrupt that has passed through exec() of a text, as of dataclasses while torch is
        # imported, has Python end itself by SIGINT.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
