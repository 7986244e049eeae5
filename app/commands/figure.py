"""`figure KIND`: from the options to a file."""

from argparse import Namespace
from inspect import signature
from pathlib import Path

from matplotlib.figure import Figure

from app.drawing.kinds import KINDS
from app.drawing.sources import labelled
from app.files import check_distinct, write_atomically
from app.settings.options import ConfigError
from datasets.files import home_expanded
from datasets.image_sets import find_images
from figures import animation
from figures.animation import Animation
from figures.style import encoded, look


def figure(options: Namespace, settings: list[str]) -> int:
    """Draw one figure, animation or table of `app.drawing.kinds` and save it. Raises ConfigError for a wrong suffix."""
    kind, out = KINDS[options.kind], options.out
    if out.suffix not in kind.suffixes:
        raise ConfigError(f"--out {out}: the suffix must be {' or '.join(kind.suffixes)}")
    if out.exists():
        check_distinct([out], _inputs(options))
    out.parent.mkdir(parents=True, exist_ok=True)
    values = {**vars(options), "settings": settings, "suffix": out.suffix}
    if kind.style is not None:
        values["look"] = look(options.style, options.width, options.latex_text)
    draw = kind.function()
    chosen = {name: values[name] for name in signature(draw).parameters if name in values and name != "sources"}
    match draw(options.sources if kind.many else options.sources[0], **chosen):
        case str() as text:
            write_atomically(out, text.encode())
            print(text, end="")
        case Animation() as drawn:
            write_atomically(out, animation.encoded(drawn, out.suffix, options.fps, options.dpi))
            print(out)
        case Figure() as drawn:
            write_atomically(out, encoded(drawn, out.suffix, values["look"], options.dpi))
            print(out)
    return 0


def _inputs(options: Namespace) -> list[Path]:
    """The files that a figure is made of."""
    files = [home_expanded(source) for _, source in labelled(options.sources)]
    if images := getattr(options, "images", None):
        files += find_images(images, options.data_root, False).paths
    return [file for file in files if file.is_file()]
