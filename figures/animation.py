"""Moving figures for talks. An animation is a figure and a function that changes it into any of its frames."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from figures.axes import log_y, new_figure, share_x, tidy
from figures.filters import draw as draw_filters
from figures.filters import order, parameters, pixels
from figures.images import as_shown, show
from figures.style import PALETTE, PAPER, Look, style


@dataclass(frozen=True)
class Animation:
    """A figure with many frames."""

    figure: Figure
    update: Callable[[int], None]  # frame -> the figure shows it
    frames: int
    look: Look


@dataclass(frozen=True)
class Iterate:
    """The point where a solver computed one of its gradients."""

    image: Tensor  # (C, H, W)
    gradients: int
    psnr: float
    bound: float  # on the distance to argmin h


def reconstruction(degraded: Tensor, iterates: list[Iterate], look: Look = PAPER) -> Animation:
    """Draw the iterates beside the measurement (C, H, W), with their error bound below."""
    h, w = degraded.shape[1:]
    with style(look):
        image = (look.width - 3 * look.gap) / 2 * h / w
        figure = new_figure(look, image + 13 * look.text / 72)
        axes = figure.subplot_mosaic([["before", "now"], ["bound", "bound"]], height_ratios=[image, 8 * look.text / 72])
        show(axes["before"], degraded)
        show(axes["now"], iterates[0].image)
        axes["before"].set_title("measured")
        gradients, bounds = [i.gradients for i in iterates], [i.bound for i in iterates]
        axes["bound"].plot(gradients, bounds, color="0.75")
        (line,) = axes["bound"].plot(gradients[:1], bounds[:1], color=PALETTE[0])
        axes["bound"].set_ylabel("error\nbound")
        log_y(axes["bound"])
        tidy(axes["bound"])
        share_x([axes["bound"]], "gradients of $h$")
        axes["now"].set_title(" ")

    def update(frame: int) -> None:
        now = iterates[frame]
        axes["now"].images[0].set_data(as_shown(now.image))
        axes["now"].set_title(f"{now.gradients} gradients: {now.psnr:.2f} dB")
        line.set_data(gradients[: frame + 1], bounds[: frame + 1])

    return Animation(figure, update, len(iterates), look)


def filters(steps: Tensor, bank: Tensor, weights: Tensor, smoothings: Tensor, look: Look = PAPER) -> Animation:
    """Draw the filters while they were learned, in the order of the last step, each in its own symmetric range. steps
    (T,), bank (T, d G, C, s, s), weights and smoothings (T, G, 1, 1) of groups of d."""
    places, size = order(bank[-1], weights[-1]).tolist(), bank.shape[1] // weights.shape[1]
    figure = draw_filters(bank[-1], weights[-1], smoothings[-1], look)
    panels = list(figure.axes)
    with style(look):
        heading = _heading(figure, 1.5 * look.row)

    def update(frame: int) -> None:
        heading.set_text(f"step {int(steps[frame])}")
        for axes, k in zip(panels, (k * size + r for k in places for r in range(size)), strict=True):
            limit = float(bank[frame, k].abs().max()) or 1.0
            axes.images[0].set_data(pixels(bank[frame, k], limit))
            if bank.shape[2] == 1:
                axes.images[0].set_clim(-limit, limit)
        for axes, k in zip(panels[::size], places, strict=True):
            axes.xaxis.label.set_text(parameters(weights[frame, k], smoothings[frame, k]))  # where it is

    return Animation(figure, update, len(steps), look)


def _heading(figure: Figure, height: float) -> Text:
    """Make room for a line of text above what is drawn."""
    before = figure.get_figheight()
    figure.set_figheight(before + height)
    share = before / (before + height)
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0, box.y0 * share, box.width, box.height * share))
    return figure.text(0.5, 1 - 0.45 * (1 - share), "", ha="center", va="center")


def images(animation: Animation, dpi: int) -> Iterator[Image.Image]:
    """Yield the frames. All have the layout of the last one, so that nothing jumps."""
    figure = animation.figure
    with style(animation.look):
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        animation.update(animation.frames - 1)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for frame in range(animation.frames):
            animation.update(frame)
            canvas.draw()
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def encoded(animation: Animation, suffix: str, fps: float = 8, dpi: int | None = None) -> bytes:
    """Return the bytes of an endless GIF or an animated PNG. The last frame stays for two seconds."""
    frames = list(images(animation, dpi or animation.look.dpi))
    durations = [round(1000 / fps)] * (len(frames) - 1) + [2000]
    if suffix == ".gif":
        palette = _palette(frames)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file, kind = io.BytesIO(), "GIF" if suffix == ".gif" else "PNG"
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()


def _palette(frames: list[Image.Image]) -> Image.Image:
    """Choose 256 colours for all frames, so that nothing flickers and equal pixels stay equal."""
    some = [frames[0], frames[len(frames) // 2], frames[-1]]
    together = Image.new("RGB", (some[0].width, sum(frame.height for frame in some)))
    for i, frame in enumerate(some):
        together.paste(frame, (0, i * frame.height))
    return together.quantize(256)
