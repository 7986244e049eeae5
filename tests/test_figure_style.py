"""Every figure at its printed size: text of one size, inside the page and apart, no white margins, the same bytes."""

import base64
import io
import re
import shutil

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from figures import comparison
from figures.comparison import Panel
from figures.style import CM, FigureError, encoded, look, wrap
from tests.drawn import margins, pdf_fonts, written
from tests.samples import KINDS, rows

LOOKS = [("paper", "double"), ("paper", "single"), ("talk", "double"), ("web", "double")]


@pytest.mark.parametrize(("name", "width"), LOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_text_has_the_size_of_the_style_is_not_clipped_and_does_not_overlap(kind, name, width):
    seen = look(name, width)
    figure = KINDS[kind](seen)
    texts = [t for t in written(figure, seen) if t.text.strip()]
    assert texts
    assert {t.size for t in texts} == {seen.text}
    w, h = figure.get_size_inches()
    for i, t in enumerate(texts):
        assert t.left >= -0.01 and t.top >= -0.01 and t.right <= w + 0.01 and t.bottom <= h + 0.01, t
        assert not [o for o in texts[:i] if t.overlaps(o)], t


@pytest.mark.parametrize("kind", KINDS)
def test_figures_have_the_width_of_the_column_and_no_white_margins(kind):
    for width, cm in (("single", 8.4), ("double", 17.4), ("12", 12.0)):
        seen = look("paper", width)
        figure = KINDS[kind](seen)
        assert figure.get_size_inches()[0] == pytest.approx(cm * CM)
        assert max(margins(figure, seen)) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_the_same_bytes_every_time_and_fonts_are_embedded_as_type_42(tmp_path, kind):
    seen = look()
    figures = [KINDS[kind](seen) for _ in range(2)]
    for suffix in ("png", "pdf", "svg"):
        first, second = (encoded(figure, f".{suffix}", seen, dpi=100) for figure in figures)
        assert first == second
        assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate|Matplotlib", first)
        if suffix == "pdf":
            (tmp_path / "figure.pdf").write_bytes(first)
            found = pdf_fonts(tmp_path / "figure.pdf")
            assert found == {"FontFile2": True, "CIDFontType2": True, "Type3": False, "Type1": False}


@pytest.mark.parametrize("channels", [1, 3])
def test_vector_files_hold_the_pixels_themselves(tmp_path, channels):
    """Eight bits per pixel at the image's own resolution, not a picture of it at some dpi."""
    pixels = torch.randint(0, 256, (channels, 37, 53), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    figure = comparison.draw([{"clean": Panel(pixels / 255)}], [[]])
    (data,) = re.findall(r"data:image/png;base64,([^\"]+)", encoded(figure, ".svg").decode())
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    np.testing.assert_array_equal(shown, pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def test_a_pixel_of_a_png_is_the_grey_value():
    """Half the range of values in the image: nothing is stretched."""
    clean = torch.full((1, 30, 30), 0.25)
    clean[:, :, 15:] = 0.75
    data = encoded(comparison.draw([{"clean": Panel(clean)}], [[]]), ".png", dpi=100)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    h, w = pixels.shape
    assert pixels[h // 2, w // 4] == round(0.25 * 255)
    assert pixels[h // 2, 3 * w // 4] == round(0.75 * 255)


def test_twenty_columns_continue_on_further_lines_with_their_titles():
    data = rows(methods=18)
    figure = comparison.draw(data, [[], []])
    whole = [a for a in figure.axes if a.images]
    assert len(whole) == 40
    tops = sorted({round(a.get_position().y1, 6) for a in whole})
    assert len(tops) == 4, "two lines per image"
    titles = [t.get_text() for t in figure.texts if t.get_text().startswith("method")]
    assert len(titles) == 36


def test_the_users_own_settings_of_matplotlib_change_nothing_and_are_left_alone():
    """A matplotlibrc ends in rcParams, and so does what a notebook sets."""
    mine: dict = {"savefig.bbox": "tight", "image.origin": "lower", "text.color": "red", "axes.grid": True}
    files = {}
    for name, settings in (("default", {}), ("mine", mine)):
        with matplotlib.rc_context(settings):
            before = dict(matplotlib.rcParams)
            files[name] = encoded(KINDS["comparison"](look()), ".png", dpi=50)
            assert dict(matplotlib.rcParams) == before
    assert files["default"] == files["mine"]


def test_wrong_widths_and_missing_latex_are_named(monkeypatch):
    for width in ("wide", "0", "-3", "nan"):
        with pytest.raises(FigureError, match="single, double or"):
            look("paper", width)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(FigureError, match="latex and dvipng"):
        look(latex=True)


def test_long_names_are_broken_at_their_separators():
    seen = look()
    assert wrap("foe-mcp-denoise", 0.6, seen) == "foe-mcp-\ndenoise"
    assert wrap("tv", 0.6, seen) == "tv"
    assert "".join(wrap("a" * 40, 0.6, seen).split("\n")) == "a" * 40
