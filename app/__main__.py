"""`python -m app`."""

import os

from app.cli import main

# Threads that spin while they wait make a second program on the same cores several times slower; alone, nothing is
# gained by them. Read when torch is imported, which main() does.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

if __name__ == "__main__":
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    # Figures are files: the backend of a notebook that starts this program may not even exist here.
    os.environ["MPLBACKEND"] = "agg"
    raise SystemExit(main())
