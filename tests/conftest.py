import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws is the same in every run, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def drawn_at_the_end(request):
    """Runs leave figures only in the modules that say so: most of a tiny run would be spent on them."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "RUNS_DRAW", False):
            patch.setattr("app.commands.train.draw_run", lambda *_: [])
        yield


@pytest.fixture
def double():
    """float64 as the default type, so that module parameters are built in it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with BSDS500 and kernels; tests that need real data are skipped where there is none."""
    for folder in (os.environ.get("APP_DATA_ROOT"), ROOT.parent / "shared" / "data", ROOT / "data"):
        if folder and (Path(folder) / "BSDS500").is_dir():
            return Path(folder)
    pytest.skip("BSDS500 is not on this machine (APP_DATA_ROOT)")


@pytest.fixture(scope="session")
def photograph(tmp_path_factory) -> Path:
    """A small grey image file."""
    file = tmp_path_factory.mktemp("images") / "photograph.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)).save(file)
    return file
