"""Figures show the data: panels are the images, lines the numbers, in the order and on the axes they should be."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from figures import (
    animation,
    comparison,
    contrasts,
    convergence,
    curves,
    filters,
    parameters,
    potentials,
    table,
    tradeoff,
)
from figures.animation import Iterate
from figures.comparison import Panel
from figures.convergence import Descent
from figures.images import error_map
from figures.regions import Region, most_different
from figures.style import FigureError, look
from tests.drawn import Written, written
from tests.samples import bank, evaluated, rows, run


def shown(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def eight_bit(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().expand(3, -1, -1).permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_comparison_panels_are_the_images_on_the_true_grey_scale(channels):
    data = rows(channels)
    axes = iter(comparison.draw(data, [[Region(10, 12, 10)]] * 2).axes)
    for row in data:
        for panel in row.values():
            whole, inset = next(axes), next(axes)
            np.testing.assert_array_equal(shown(whole), eight_bit(panel.image))
            np.testing.assert_array_equal(shown(inset), eight_bit(panel.image[:, 10:20, 12:22]))
            assert whole.patches[0].get_bbox().bounds == (11.5, 9.5, 10, 10)
    assert next(axes, None) is None


def test_comparison_names_columns_and_marks_the_best_number_of_a_row():
    texts = [t.get_text() for t in comparison.draw(rows(), [[], []]).texts]
    assert texts.count("PSNR (dB) / SSIM") == 2
    assert texts.count(r"$\mathbf{28.13}$ / 0.813") == 2
    assert texts.count(r"27.13 / $\mathbf{0.823}$") == 2
    assert texts.count("10.00 / 0.100") == 2
    assert texts.count("clean") == 1, "titles stand above the first row only"


def test_error_maps_share_one_colour_scale_with_a_bar():
    data = rows()
    figure = comparison.draw(data, [[], []], errors=True)
    maps = [a for a in figure.axes if a.images and a.images[0].get_cmap().name == "magma"]
    assert len(maps) == 6, "every method of two rows but the clean image"
    assert len({a.images[0].get_clim() for a in maps}) == 1
    np.testing.assert_array_equal(shown(maps[0]), error_map(data[0]["degraded"].image, data[0]["clean"].image).numpy())
    bars = [a for a in figure.axes if a.get_ylabel() == "error"]
    assert len(bars) == 2
    assert bars[0].get_ylim() == maps[0].images[0].get_clim()


def test_rows_of_different_sizes_and_colours_keep_their_shapes():
    data = rows(1, ((40, 60),)) + rows(3, ((60, 40),))
    figure = comparison.draw(data, [[], []])
    for axes, shape in ((figure.axes[0], (40, 60)), (figure.axes[-1], (60, 40))):
        box = axes.get_window_extent()
        assert box.height / box.width == pytest.approx(shape[0] / shape[1])


def test_a_missing_method_and_a_wrong_size_are_named():
    data = rows()
    del data[1]["method-0"]
    with pytest.raises(FigureError, match="row 2 has no image of 'method-0'"):
        comparison.draw(data, [[], []])
    data = rows()
    data[0]["method-1"] = Panel(torch.zeros(1, 3, 4))
    with pytest.raises(FigureError, match="'method-1' is 4 x 3 grey, not 60 x 40 grey"):
        comparison.draw(data, [[], []])


def test_regions_are_where_the_errors_of_the_methods_differ_most_and_disjoint():
    row = rows()[0]
    clean, others = row["clean"].image, [row["method-0"].image, row["method-1"].image]
    first, second, third = most_different(clean, others, 10, count=3)
    assert first == Region(10, 12, 10)
    for a, b in ((first, second), (first, third), (second, third)):
        assert abs(a.row - b.row) >= 10 or abs(a.column - b.column) >= 10
    assert most_different(clean, others, 1000)[0].size == 40, "no larger than the image"


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_are_sorted_by_their_contribution_in_a_symmetric_range(channels):
    c, w, s = bank(5, channels)
    w = torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3])[:, None, None]
    figure = filters.draw(3 * c, w, s)
    assert [a.get_xlabel().split("\n")[0] for a in figure.axes] == [f"$w$ 0.{i}0" for i in (5, 4, 3, 2, 1)]
    if channels == 1:
        np.testing.assert_array_equal(shown(figure.axes[0]), 3 * c[1, 0].numpy())
        low, high = figure.axes[0].images[0].get_clim()
        assert -low == high == pytest.approx(float(3 * c[1].abs().max()))


@pytest.mark.parametrize("frequency", [False, True])
def test_filters_of_a_group_are_drawn_next_to_each_other_over_one_label(frequency):
    c = torch.randn(12, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    c /= c.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    w, s = torch.tensor([0.1, 0.5, 0.3]).view(3, 1, 1), torch.full((3, 1, 1), 0.2)
    figure = filters.draw(c, w, s, frequency=frequency)
    drawn = figure.axes[:: 2 if frequency else 1]
    for axes, k in zip(drawn, (4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3), strict=True):
        np.testing.assert_array_equal(shown(axes), c[k, 0].numpy())
    assert [a.get_xlabel().split("\n")[0] for a in figure.axes if a.get_xlabel()] == [f"$w$ 0.{i}0" for i in (5, 3, 1)]
    boxes = [axes.get_position() for axes in drawn]
    figure.draw_without_rendering()
    labels = [a.xaxis.label.get_window_extent() for a in figure.axes if a.get_xlabel()]
    for group in range(3):
        first, *_, last = mine = boxes[4 * group : 4 * group + 4]
        assert {round(box.y0, 9) for box in mine} == {round(first.y0, 9)}, "in one row"
        inner = max(b.x0 - a.x1 for a, b in pairwise(mine))
        others = [box for box in boxes if box not in mine and abs(box.y0 - first.y0) < 1e-9]
        assert all(min(abs(box.x0 - last.x1), abs(first.x0 - box.x1)) > 2 * inner for box in others)
        middle = (labels[group].x0 + labels[group].x1) / 2 / figure.bbox.width
        assert middle == pytest.approx((first.x0 + last.x1) / 2, abs=0.01)


def test_a_common_range_and_frequency_responses_on_demand():
    c, w, s = bank(5)
    figure = filters.draw(c, w, s, frequency=True, common_range=True)
    images = [a for a in figure.axes if a.images]
    assert len(images) == 10
    assert {a.images[0].get_clim() for a in images[::2]} == {(-float(c.abs().max()), float(c.abs().max()))}
    strongest = filters.order(c, w)[0]
    spectrum = shown(images[1])
    assert spectrum[31, 31] == pytest.approx(abs(float(c[strongest].sum())), abs=1e-5), "zero frequency in the middle"
    assert spectrum.max() <= float(c[strongest].abs().sum())


def test_potentials_and_influences_are_drawn_as_given():
    t, w = torch.linspace(-1, 1, 11), torch.tensor([0.3, 0.1])
    figure = potentials.draw(t, w[:, None] * t.abs(), w[:, None] * t.sign(), w)
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), (w[1] * t.abs()).numpy())
    np.testing.assert_array_equal(right.lines[1].get_ydata(), (w[0] * t.sign()).numpy())
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["$w$ = 0.1", "$w$ = 0.3"]


def lines(axes) -> list[np.ndarray]:
    return [line.get_ydata() for line in axes.lines if len(line.get_xdata())]


def test_curves_have_one_colour_per_group_and_log_axes_where_they_belong():
    figure = curves.draw({"a": [run()], "b": [run()]}, x="step")
    assert [a.get_title() for a in figure.axes] == [q.title for q in curves.QUANTITIES.values()]
    assert [a.get_yscale() for a in figure.axes] == ["log", "linear", "log", "log", "linear", "linear"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    held_out = figure.axes[1]
    assert [list(line.get_xdata()) for line in held_out.lines[:2]] == [[10, 20, 30, 40, 50, 60]] * 2
    assert {line.get_color() for line in held_out.lines} == {"C0", "C1"}


def test_a_band_is_the_range_of_the_seeds_around_their_mean():
    figure = curves.draw({"tv": [run(seed=0), run(seed=2)]}, "step", ("psnr",))
    (axes,) = figure.axes
    means = [27 + (i - 1) / 60 + 0.1 for i in (10, 20, 30, 40, 50, 60)]
    np.testing.assert_allclose(lines(axes)[0], means)
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(27 + 9 / 60)
    assert corners[:, 1].max() == pytest.approx(27.2 + 59 / 60)
    assert figure.legends[0].get_texts()[0].get_text() == "tv (2 seeds)"


def test_runs_that_were_not_recorded_at_the_same_places_are_interpolated():
    x = np.arange(1.0, 11.0)
    common, mean, low, high = curves.band([(x, x), (2 * x, 2 * x)])
    assert (common[0], common[-1]) == (2, 10)
    for values in (mean, low, high):
        np.testing.assert_allclose(values, common)


def test_seeds_that_were_validated_once_each_are_a_point_with_error_bars_in_both_directions():
    seeds = [run(10, 0), run(20, 2)]
    for seed in seeds:
        seed["validation_psnr"][:-1] = [math.nan] * (len(seed["step"]) - 1)
    (axes,) = curves.draw({"tv": seeds}, "step", ("psnr",)).axes
    psnr = 27 + 9 / 10, 27.2 + 19 / 20
    x, y = (np.atleast_1d(values) for values in axes.lines[0].get_data())
    assert (float(x[0]), float(y[0])) == pytest.approx((15, sum(psnr) / 2))
    bars = [segment for bar in axes.collections for segment in bar.get_segments()]
    assert sorted(float(np.ptp(bar, axis=0).max()) for bar in bars) == pytest.approx([psnr[1] - psnr[0], 10])
    seeds[0]["step"] = seeds[1]["step"][-10:]
    (axes,) = curves.draw({"tv": seeds}, "step", ("psnr",)).axes
    assert len(axes.collections) == 2, "at the same x, the range of y is still seen"


def test_missing_columns_leave_out_a_panel_and_nothing_to_draw_is_an_error():
    without = {name: values for name, values in run().items() if name != "linear_iterations"}
    without["step_size"] = [math.nan] * 60
    titles = [a.get_title() for a in curves.draw({"a": [without]}).axes]
    assert len(titles) == 4
    with pytest.raises(FigureError, match="no values of linear_iterations"):
        curves.draw({"a": [without]}, quantities=("products",))
    with pytest.raises(FigureError, match="'seconds'"):
        curves.draw({"a": [{"step": [1.0], "loss": [1.0]}]}, x="seconds")
    curves.draw({"a": [run(1)]}, quantities=("loss",))


def test_parameters_are_one_line_per_expert():
    weights = torch.rand(4, 6) + 0.1
    figure = parameters.draw(torch.tensor([0, 1, 3, 9]), weights, 2 * weights)
    left, right = figure.axes[:2]
    strongest = int(weights[-1].argmax())
    np.testing.assert_array_equal(lines(left)[-1], weights[:, strongest].numpy())
    np.testing.assert_array_equal(lines(right)[-1], 2 * weights[:, strongest].numpy())
    assert len(left.lines) == 6
    assert left.get_yscale() == "log"
    with pytest.raises(FigureError, match="single snapshot"):
        parameters.draw(torch.tensor([0]), weights[:1], weights[:1])


def test_convergence_draws_the_bound_above_the_error():
    bound = 10 * 0.5 ** torch.arange(8.0)
    figure = convergence.draw({"agd": Descent(bound, bound / 4)}, 0.2)
    solid, dashed = figure.axes[0].lines[:2]
    np.testing.assert_array_equal(solid.get_ydata(), bound.numpy())
    np.testing.assert_array_equal(dashed.get_ydata(), (bound / 4).numpy())
    assert list(solid.get_xdata()) == list(range(1, 9))
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["agd", "bound", "true", "accuracy asked for"]


def marks(figure) -> dict[tuple[float, float], str]:
    """The filling of every mark of a method, by its point."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o" and line.get_markersize() > 4]
    return {(line.get_xdata()[0], line.get_ydata()[0]): line.get_mfc() for line in lines if len(line.get_xdata())}


def test_tradeoff_marks_the_mean_of_every_model():
    figure = tradeoff.draw({"tv": evaluated(), "foe": evaluated(0.5)}, "iterations")
    assert [cost for cost, _ in marks(figure)] == pytest.approx([40.8, 60.8])
    with pytest.raises(FigureError, match="tv has no metric 'psnr'"):
        tradeoff.draw({"tv": {"seconds": {"a": 1.0}}})
    with pytest.raises(FigureError, match="tv: no metric 'seconds'"):
        tradeoff.draw({"tv": {"psnr": {"a": 1.0}}})


def test_tradeoff_fills_the_marks_of_methods_that_certify_every_image():
    def with_certificates(*certified: bool) -> dict[str, dict[str, float]]:
        found = evaluated(images=2)
        return found | {"certified": dict(zip(found["psnr"], map(float, certified), strict=False))}

    methods = {"all": with_certificates(True, True), "one": with_certificates(True, False),
               "half": with_certificates(True), "none": evaluated(images=2)}  # fmt: skip
    for i, found in enumerate(methods.values()):
        found["seconds"] = {"a": float(i)}
    figure = tradeoff.draw(methods)
    assert [filling == "white" for filling in marks(figure).values()] == [False, True, True, True]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["certified", "not certified"]


def test_tradeoff_draws_a_line_where_a_method_has_no_such_cost():
    methods = {"tv": evaluated() | {"parameters": {"image0": 2.0}}, "bm3d": evaluated(0.1)}
    figure = tradeoff.draw(methods, "parameters")
    (line,) = (line for line in figure.axes[0].lines if line.get_linestyle() == ":" and len(line.get_xdata()))
    assert list(line.get_ydata()) == pytest.approx(2 * [np.mean(list(methods["bm3d"]["psnr"].values()))])
    assert "nothing learned" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert {t.get_text() for t in figure.axes[0].texts} == {"tv", "bm3d"}


@pytest.mark.parametrize("size", ["paper", "talk"])
def test_the_names_of_many_methods_cover_neither_one_another_nor_a_mark(size):
    """Twelve, most of them crowded, as good methods are."""
    g, shape = np.random.default_rng(0), look(size, "single")
    shared = g.normal(0, 2, 20)
    methods = {}
    for i, (cost, quality) in enumerate(zip(10 ** g.uniform(-1, 1, 12), g.uniform(28.3, 29.3, 12), strict=True)):
        images = [f"{n}" for n in range(20)]
        methods[f"method-{i}"] = {"psnr": dict(zip(images, quality + shared, strict=True)),
                                  "seconds": dict.fromkeys(images, cost)}  # fmt: skip
    figure = tradeoff.draw(methods, "seconds", shape)
    names = [text for text in written(figure, shape) if text.text in methods]
    assert len(names) == 12
    assert not [(a.text, b.text) for a, b in combinations(names, 2) if a.overlaps(b)]
    axes, (_, height) = figure.axes[0], figure.get_size_inches()
    for point in marks(figure):
        x, y = axes.transData.transform(point) / figure.dpi
        here = Written("", 0, x, height - y, x, height - y)
        assert not [t.text for t in names if t.left < here.left < t.right and t.top < here.top < t.bottom]
    frame = axes.get_window_extent().extents / figure.dpi
    assert all(t.left > frame[0] and t.right < frame[2] for t in names)


def test_tables_mark_the_best_and_the_second_and_give_standard_errors():
    methods = {"a_b": evaluated(), "c": evaluated(0.1), "d": evaluated(0.2)}
    values = np.array(list(evaluated(0.2)["psnr"].values()))
    error = values.std(ddof=1) / math.sqrt(5)
    lines = table.latex(methods, ("psnr", "seconds")).splitlines()
    assert lines[:3] == [r"\begin{tabular}{lrr}", r"\toprule", r"method & PSNR (dB) & seconds \\"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[6].startswith(rf"d & $\mathbf{{{values.mean():.2f}}} \pm {error:.2f}$")
    assert lines[4].startswith(r"a\_b & $28.56") and r"$\mathbf{0.51}" in lines[4], "fewer seconds are better"
    assert r"\underline{31.36}" in lines[5]
    text = table.markdown(methods, ("psnr",), errors=False).splitlines()
    assert text[0] == "| method | PSNR (dB) |"
    assert text[2:] == ["| a_b | 28.56 |", "| c | <u>31.36</u> |", "| d | **34.16** |"]


def test_what_a_method_does_not_have_is_none_in_a_table():
    methods = {"a": evaluated() | {"parameters": {"x": 2.0, "y": 2.0}}, "b": evaluated()}
    assert table.markdown(methods, ("parameters",)).splitlines()[2:] == ["| a | 2 |", "| b | none |"]
    assert table.latex(methods, ("parameters",)).splitlines()[4:6] == [r"a & $2$ \\", r"b & none \\"]


def test_equal_values_are_equally_best():
    same = {"a": evaluated(), "b": evaluated(), "c": evaluated(-0.1)}
    assert [cells[0].rank for cells in table.summarize(same, ("psnr",)).values()] == [0, 0, 1]


def test_tables_refuse_to_compare_different_images_and_missing_metrics():
    with pytest.raises(FigureError, match="b lacks the image 'image4'"):
        table.latex({"a": evaluated(), "b": evaluated(images=4)})
    with pytest.raises(FigureError, match="a: no metric 'error_bound'"):
        table.latex({"a": evaluated()}, ("error_bound",))


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_animations_show_one_frame_per_iterate_and_are_deterministic(tmp_path, suffix):
    images = [torch.full((1, 20, 30), v) for v in (0.2, 0.5, 0.8)]
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        iterates = [Iterate(x, n + 1, 20.0 + n, 10.0**-n) for n, x in enumerate(images)]
        moving = animation.reconstruction(images[0], iterates, look("web", "8"))
        file.write_bytes(animation.encoded(moving, file.suffix, dpi=80))
    assert files[0].read_bytes() == files[1].read_bytes()
    with Image.open(files[0]) as film:
        assert film.n_frames == 3
        for n, value in enumerate((0.2, 0.5, 0.8)):
            film.seek(n)
            w, h = film.size
            grey = film.convert("L").getpixel((3 * w // 4, h // 4))
            assert grey == pytest.approx(255 * value, abs=3)


@pytest.mark.parametrize("group", [1, 2])
def test_filters_are_animated_in_the_order_of_the_last_step(group):
    c, w, s = bank(4)
    w, s = w[::group], s[::group]
    steps, films = torch.tensor([0, 5]), torch.stack([torch.zeros_like(c), c])
    moving = animation.filters(steps, films, torch.stack([w, w]), torch.stack([s, s]), look("web", "8"))
    moving.update(0)
    assert float(np.abs(shown(moving.figure.axes[0])).max()) == 0
    assert moving.figure.texts[0].get_text() == "step 0"
    moving.update(1)
    np.testing.assert_array_equal(shown(moving.figure.axes[0]), c[group * filters.order(c, w)[0], 0].numpy())
    assert len([a for a in moving.figure.axes if a.get_xlabel()]) == 4 // group


def test_thresholds_are_averaged_over_the_filters_on_a_scale_that_is_symmetric_about_the_median():
    image = torch.rand(1, 6, 8)
    thresholds = torch.stack([torch.full((6, 8), 0.5), torch.full((6, 8), 2.0)])
    thresholds[:, 2, 3] = 1.5
    figure = contrasts.draw({"measured": image}, 3 * thresholds)
    first, second, *_ = figure.axes
    np.testing.assert_array_equal(shown(first), eight_bit(image))
    expected = np.ones((6, 8))
    expected[2, 3] = 1.5
    np.testing.assert_allclose(shown(second), expected, rtol=1e-6)
    low, high = second.images[0].get_clim()
    assert low * high == pytest.approx(1)


def test_masks_are_averaged_over_the_filters_on_their_own_scale():
    masks = torch.stack([torch.linspace(0.2, 0.6, 48).view(6, 8), torch.full((6, 8), 0.8)])
    figure = contrasts.draw({"measured": torch.rand(1, 6, 8)}, torch.ones(2, 6, 8), masks)
    titles = [axes.get_title() for axes in figure.axes]
    panel, bar = figure.axes[titles.index("mask")], figure.axes[-1]
    np.testing.assert_allclose(shown(panel), masks.mean(0).numpy(), rtol=1e-6)
    assert panel.images[0].get_clim() == pytest.approx((0.5, 0.7), abs=0.002)
    assert [label.get_text() for label in bar.get_xticklabels()] == ["0.55", "0.65"]
    constant = contrasts.draw({}, torch.ones(2, 6, 8), torch.full((2, 6, 8), 0.95))
    low, high = constant.axes[1].images[0].get_clim()
    assert low < high, "a network that has not learned yet finds the same everywhere"
    assert "mask" not in [axes.get_title() for axes in contrasts.draw({}, torch.ones(2, 6, 8)).axes]
