"""Figures show the data: panels are the tensors, labels the numbers, files the same bytes every time."""

import numpy as np
import pytest
import torch

from figures import comparison, curves, filters
from figures.comparison import Panel
from figures.style import save

SUFFIXES = ["png", "pdf", "svg"]


def rows(channels: int, sizes=((40, 60), (60, 40))) -> list[dict[str, Panel]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for h, w in sizes:
        clean = torch.rand(channels, h, w, generator=generator) * 0.2 + 0.4
        a, b = clean.clone(), clean.clone()
        b[:, 10:20, 12:22] += 0.3
        made.append({"clean": Panel(clean), "degraded": Panel(clean - 0.7, 10.0, 0.1),
                     "tv": Panel(a, 28.126, 0.8126), "foe": Panel(b, 29.0, 0.9)})  # fmt: skip
    return made


def grid(figure) -> np.ndarray:
    """Axes of two rows of four methods: [2 i] the images, [2 i + 1] their insets."""
    return np.array(figure.axes).reshape(2, 4, 2).swapaxes(1, 2).reshape(4, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_comparison_panels_are_the_images_on_the_true_grey_scale(channels):
    data = rows(channels)
    figure = comparison.draw(data, crop=10)
    axes = grid(figure)
    for i, row in enumerate(data):
        for j, panel in enumerate(row.values()):
            shown = axes[2 * i, j].images[0]
            pixels = np.asarray(shown.get_array())
            expected = panel.image.clamp(0, 1).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)
            assert shown.get_clim() == (0, 1)
    assert [a.get_title() for a in axes[0]] == ["clean", "degraded", "tv", "foe"]
    assert axes[1, 2].get_xlabel() == "28.13 dB / 0.813"


def test_insets_magnify_the_framed_region_where_methods_differ_most():
    data = rows(1)
    assert comparison.most_different_region(list(data[0].values()), 10) == (10, 12)
    axes = grid(comparison.draw(data, crop=10))
    for column, panel in zip(range(4), data[0].values(), strict=True):
        frame = axes[0, column].patches[0]
        assert frame.get_xy() == (11.5, 9.5)
        inset = np.asarray(axes[1, column].images[0].get_array())
        np.testing.assert_array_equal(inset, panel.image[0, 10:20, 12:22].clamp(0, 1).numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_are_sorted_by_strength_in_a_symmetric_range(channels):
    bank = torch.randn(5, channels, 3, 3)
    bank = bank / bank.flatten(1).norm(dim=1)[:, None, None, None]
    weights = torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3])[:, None, None]
    figure = filters.draw(bank, weights, torch.full_like(weights, 0.01))
    drawn = [a for a in figure.axes if a.images]
    assert [a.get_title().split("\n")[0] for a in drawn] == ["w 0.5", "w 0.4", "w 0.3", "w 0.2", "w 0.1"]
    if channels == 1:
        np.testing.assert_array_equal(drawn[0].images[0].get_array(), bank[1, 0].numpy())
        low, high = drawn[0].images[0].get_clim()
        assert low == -high


def columns(n: int = 50) -> dict[str, list[float]]:
    ramp = [float(i + 1) for i in range(n)]
    names = ["step", "loss", "psnr", "accuracy", "step_size", "lower_iterations", "linear_iterations", "computations"]
    return dict.fromkeys(names, ramp) | {"validation_psnr": [float("nan")] * (n - 1) + [28.0]}


def test_curves_have_one_line_per_run_and_labelled_axes():
    figure = curves.draw({"a": columns(), "b": columns()})
    assert len(figure.axes) == 4
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    for axes in figure.axes:
        assert axes.get_title()
        assert {line.get_color() for line in axes.lines} == {"C0", "C1"}
    held_out = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert [line.get_ydata().tolist() for line in held_out] == [[28.0], [28.0]]
    assert figure.axes[2].get_xlabel() == "total computations"


def test_curves_of_a_single_step_can_be_drawn(tmp_path):
    save(curves.draw({"a": columns(1)}), tmp_path / "a.png")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_are_deterministic_and_fonts_are_embedded(tmp_path, suffix):
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        save(curves.draw({"a": columns()}), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    if suffix == "pdf":
        assert b"/FontFile2" in files[0].read_bytes() or b"FontFile2" in files[0].read_bytes()
