"""Regularizers of one's own on disk: which class is built, and what is said where none can be."""

import pytest
import torch
from deepinv.physics import Denoising

from app import FieldOfExperts, Regularizer, TotalVariation, load, reconstruct, save
from app.models.files import ModelError
from regularizers.functional import RegularizerError


def defined(module: str, arguments: tuple = ()) -> type[Regularizer]:
    """A class called Scaled, as a notebook or module of this name would define it."""

    def __init__(self, factor: float = 2.0):
        Regularizer.__init__(self)
        self.factor, self.log_weight = factor, torch.nn.Parameter(torch.zeros(()))

    body = {
        "__init__": __init__, "__module__": module, "__qualname__": "Scaled", "module": module,
        "value": lambda self, x: self.log_weight.exp() * x.diff().square().sum((1, 2, 3)),
        "curvature": lambda self: (0.0, 8 * float(self.log_weight.exp())),
    }  # fmt: skip
    return type("Scaled", (Regularizer,), body)


def test_the_class_of_the_same_module_is_built_as_it_was_defined_last(tmp_path):
    mine, other = defined("notebook"), defined("elsewhere")
    save(mine(factor=3.0), tmp_path / "a.safetensors", ridge=0.5)
    again = defined("notebook")  # the cell has run once more
    found = load(tmp_path / "a.safetensors")
    assert type(found.regularizer) is again is not other
    assert (found.regularizer.factor, found.ridge) == (3.0, 0.5)
    assert type(load(tmp_path / "a.safetensors", regularizer=other()).regularizer) is other
    save(defined("gone")(), tmp_path / "b.safetensors")


def test_what_cannot_be_built_is_said(tmp_path):
    made = FieldOfExperts(filters=2, filter_size=3)
    made.arguments["weight"] = object()
    save(made, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"FieldOfExperts cannot be built by itself"):
        load(tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", regularizer=FieldOfExperts(filters=2, filter_size=3)).regularizer
    torch.testing.assert_close(loaded.state_dict(), made.state_dict())
    with pytest.raises(ModelError, match="does not hold the weights"):
        load(tmp_path / "a.safetensors", regularizer=FieldOfExperts(filters=3, filter_size=3))
    with pytest.raises(ModelError, match="no model"):
        load(tmp_path / "none.safetensors")


class Ridge(Regularizer):
    def value(self, x):
        return x.square().sum((1, 2, 3))

    def curvature(self):
        return 0.0, 2.0


class Detached(Regularizer):
    """Forgets where x came from."""

    def value(self, x):
        return x.detach().square().sum((1, 2, 3))

    def curvature(self):
        return 0.0, 2.0


def test_a_regularizer_without_derivatives_is_not_taken_for_zero():
    """Its gradient would be zero, and y itself a certified solution."""
    y = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RegularizerError, match=r"Detached\.value depends on x, but autograd does not know how"):
        reconstruct(Detached(), y, Denoising())
    with torch.inference_mode(), pytest.raises(RegularizerError, match=r"use torch\.no_grad"):
        reconstruct(Ridge(), y, Denoising())
    with torch.no_grad():
        assert reconstruct(Ridge(), y, Denoising()).converged.all()
    with torch.inference_mode():
        x = reconstruct(TotalVariation(1), y, Denoising()).x
    torch.testing.assert_close(x, reconstruct(TotalVariation(1), y, Denoising()).x)
