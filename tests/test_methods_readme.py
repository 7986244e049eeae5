"""The method that app/upper/README.md writes as an example is a method."""

import re

import pytest
import torch

from app.training import checkpoint
from app.upper.state import restore, tensors
from tests.conftest import ROOT
from tests.test_hypergradient import Tikhonov
from tests.test_maid import quadratic_problem


def example() -> type:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "app" / "upper" / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 35
    names: dict = {"__name__": "readme"}
    exec(code, names)
    return names["SignDescent"]


@pytest.mark.usefixtures("double")
def test_the_example_reaches_a_known_optimum_and_resumes_from_a_checkpoint(tmp_path):
    """R = e^t / 2 ||x||^2: steps of one length end within that length of the best t."""
    regularizer = Tikhonov(0.0)
    batch, optimum = quadratic_problem(regularizer)
    method = example()(step_size=0.02, batch_size=3)
    assert (method.images_per_step(10), method.full_batch) == (3, False)
    state = method.begin(finite_sum=True)
    for k in range(60):
        method.step(k, batch, state)
    checkpoint.save(tmp_path / "state", tensors(state), {})
    state = method.begin(finite_sum=True)
    restore(state, checkpoint.load(tmp_path / "state")[0], torch.device("cpu"))
    assert state.steps == 60
    for k in range(60, 120):
        step = method.step(k, batch, state)
    assert step.certified.all()
    torch.testing.assert_close(regularizer.t.detach(), optimum, atol=0.02, rtol=0)
