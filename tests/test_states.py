"""The state of each method: what a checkpoint holds of it, and what resumes from checkpoints of earlier versions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from app.lower.energy import Energy
from app.problem.losses import SquaredError
from app.upper import direction
from app.upper.descent import Descent
from app.upper.method import Batch
from app.upper.methods.amigo import Amigo
from app.upper.methods.gd_polyak import GdPolyak
from app.upper.methods.hoag import Hoag, HoagState
from app.upper.methods.isgd import Isgd
from app.upper.methods.jfb import Jfb
from app.upper.methods.maid import Maid
from app.upper.methods.meha import Meha
from app.upper.methods.stocbio import Stocbio
from app.upper.methods.unroll import Unroll
from app.upper.state import PerImage, StateError, WarmStart, copy, restore, tensors
from regularizers import TotalVariation
from tests.problems import Identity

CPU = torch.device("cpu")

# With the settings of the runs whose state after three steps, and whose fourth step, is in tests/data/states. Version
# 9fa2e4e wrote them, which kept states as dictionaries.
METHODS: dict[str, Any] = {
    "isgd": Isgd(descent=Descent(direction.adabelief), relative_accuracy=0.1),
    "stocbio": Stocbio(descent=Descent(direction.momentum)),
    "amigo": Amigo(),
    "jfb": Jfb(descent=Descent(direction.plain)),
    "unroll": Unroll(),
    "meha": Meha(),
    "maid": Maid(memory=3),
    "hoag": Hoag(accuracy=1e-6),
    "gd_polyak": GdPolyak(accuracy=1e-4, short_steps=3),
}


def problem() -> tuple[TotalVariation, Batch]:
    g = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 1, 2, 2, generator=g).repeat_interleave(4, 2).repeat_interleave(4, 3)
    y = clean + 0.1 * torch.randn(clean.shape, generator=g)
    r = TotalVariation(1, weight=0.005, smoothing=0.01)
    return r, Batch(r, lambda: Energy(Identity(), r.frozen(), y), SquaredError(clean), (0, 1, 2))


def saved(name: str) -> dict[str, dict[str, Tensor]]:
    """Tensors of a run by kind: state and parameters after three steps, and the next loss and parameters."""
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "parameter": {}, "next": {}}
    for key, tensor in load_file(Path(__file__).parent / "data" / "states" / f"{name}.safetensors").items():
        kind, _, rest = key.partition(".")
        parts[kind][rest] = tensor
    return parts


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t.double(), b[n].double()) for n, t in a.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_of_an_earlier_version_continues_as_that_version_did(name):
    """To what another processor rounds differently; a number that is read wrongly changes more."""
    method, before, (r, batch) = METHODS[name], saved(name), problem()
    state = method.begin(finite_sum=True)
    restore(state, before["state"], CPU)
    assert same(tensors(state), before["state"]), "all of it was read"
    r.load_state_dict(before["parameter"])
    loss = method.step(3, batch, state).loss
    torch.testing.assert_close(loss, before["next"].pop("loss"), rtol=1e-5, atol=0)
    for parameter, value in before["next"].items():
        torch.testing.assert_close(r.state_dict()[parameter], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_checkpoint_lacks_or_has_too_much_of_is_an_error_and_changes_nothing(name):
    method, flat = METHODS[name], saved(name)["state"]
    state = method.begin(finite_sum=True)
    empty = tensors(state)
    with pytest.raises(StateError, match="alhpa_0"):
        restore(state, {**flat, "value.alhpa_0": torch.ones(())}, CPU)
    needed = [k for k in flat if k.startswith("value.") and k.endswith((".0", ".alpha", ".L", ".before"))]
    for key in needed:
        with pytest.raises(StateError):
            restore(state, {k: t for k, t in flat.items() if k != key}, CPU)
    assert same(tensors(state), empty)


@pytest.mark.parametrize("name", METHODS)
def test_steps_leave_a_copy_as_it_is_although_it_shares_all_tensors(name):
    method, (r, batch) = METHODS[name], problem()
    state = method.begin(finite_sum=True)
    restore(state, saved(name)["state"], CPU)
    r.load_state_dict(saved(name)["parameter"])
    kept = copy(state)
    large = [t for n, t in tensors(kept).items() if n.startswith("image.")]
    assert all(any(t is other for other in tensors(state).values()) for t in large)
    method.step(3, batch, state)
    assert same(tensors(kept), saved(name)["state"])
    assert not same(tensors(state), saved(name)["state"])


@pytest.mark.parametrize("name", METHODS)
def test_fresh_noise_meets_no_tensor_of_an_image(name):
    """Neither one of this run nor one of a checkpoint whose noise was fixed."""
    method, (_, batch) = METHODS[name], problem()
    state = method.begin(finite_sum=False)
    restore(state, saved(name)["state"], CPU)
    method.step(3, batch, state)
    assert not [n for n in tensors(state) if n.startswith("image.")]


@dataclass(frozen=True)
class Pair:
    a: float
    b: float


@dataclass(frozen=True, kw_only=True)
class Record:
    pair: Pair
    mean: Tensor | None = field(default=None, metadata={"name": "other.name"})


@dataclass
class Everything:
    number: float
    count: int
    x: PerImage
    record: Record | None = None
    numbers: tuple[float, ...] = ()
    several: tuple[Tensor, ...] = ()


def test_every_kind_of_field_comes_back_under_its_name():
    record = Record(pair=Pair(1 / 3, 2.0), mean=torch.arange(3.0))
    full = Everything(
        0.1, 7, PerImage(True, {17: torch.ones(2)}), record, (1e-30, 0.0), (torch.zeros(1), torch.ones(2))
    )
    flat = tensors(full)
    assert set(flat) == {
        "value.number", "value.count", "image.x.17", "value.pair", "value.other.name", "value.numbers",
        "value.several.0", "value.several.1",
    }  # fmt: skip
    read = Everything(0.0, 0, PerImage(True))
    restore(read, flat, CPU)
    assert same(tensors(read), flat)
    assert (read.number, read.count, read.numbers, read.record.pair) == (0.1, 7, (1e-30, 0.0), Pair(1 / 3, 2.0))
    restore(read, tensors(Everything(0.0, 0, PerImage(True))), CPU)
    assert (read.record, read.numbers, read.several, read.x.tensors) == (None, (), (), {})
    with pytest.raises(StateError, match="lacks"):
        restore(read, {}, CPU)
    assert read.count == 0


def test_a_record_of_which_a_part_is_missing_is_left_over():
    flat = {"value.L": torch.tensor(2.0), "value.theta.0": torch.ones(1), "value.z.0": torch.ones(1)}
    with pytest.raises(StateError, match=r"HoagState has no value.L, value.theta.0, value.z.0"):
        restore(HoagState(WarmStart.empty(True)), flat, CPU)
