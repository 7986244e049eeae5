"""Kernels can be compared by eye: one scale, one pixel size, centres in the middle."""

import numpy as np
import pytest
import torch

from datasets.kernels import gaussian_kernel
from figures import kernels
from figures.style import save


def test_kernels_share_their_scale_and_their_centre():
    shown = {"true": gaussian_kernel(9, 1.5), "initial": gaussian_kernel(5, 0.6), "learned": torch.rand(4, 6)}
    figure = kernels.draw(shown)
    panels = figure.axes[:3]
    peak = max(float(k.max()) for k in shown.values())
    assert [a.get_title() for a in panels] == list(shown)
    for axes, kernel in zip(panels, shown.values(), strict=True):
        image = axes.images[0]
        np.testing.assert_array_equal(image.get_array(), kernel.numpy())
        assert image.get_clim() == (0, pytest.approx(peak))
        assert axes.get_xlim() == (-4.5, 4.5)
        left, right, bottom, top = image.get_extent()
        h, w = kernel.shape
        assert (right - left, bottom - top) == (w, h)
        assert (left + w // 2 + 0.5, top + h // 2 + 0.5) == (0, 0), "the middle pixel is around the origin"


def test_a_learned_kernel_can_be_drawn_as_it_is(tmp_path):
    save(kernels.draw({"learned": torch.rand(3, 3, requires_grad=True)}), tmp_path / "kernel.png")
    assert (tmp_path / "kernel.png").stat().st_size > 0
