"""`figure KIND`: from the options to a file."""

from argparse import Namespace
from pathlib import Path

from matplotlib.figure import Figure

from app.assemble import load
from app.drawing.comparison import draw_comparison
from app.drawing.learned import draw_filters, draw_potentials
from app.drawing.runs import animate_filters, draw_curves, draw_parameters
from app.drawing.solves import animate_reconstruction, draw_contrasts, draw_convergence
from app.drawing.tables import draw_tradeoff, write_table
from app.files import write_atomically
from app.settings.options import ConfigError
from figures import animation
from figures.animation import Animation
from figures.style import Look, look, save
from regularizers import Regularizer


def figure(options: Namespace, settings: list[str]) -> int:
    out: Path = options.out
    if out.suffix not in options.suffixes:
        raise ConfigError(f"--out {out}: the suffix must be {' or '.join(options.suffixes)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.kind == "table":
        text = write_table(options.sources, options.metrics, not options.no_errors, out.suffix)
        write_atomically(out, text.encode())
        print(text, end="")
        return 0
    seen = look(options.style, options.width, options.latex_text)
    if options.kind == "animation":
        animation.save(_animation(options, settings, seen), out, options.fps, options.dpi)
    else:
        save(_still(options, settings, seen), out, seen, options.dpi)
    print(out)
    return 0


def _still(o: Namespace, settings: list[str], seen: Look) -> Figure:
    first = o.sources[0]
    match o.kind:
        case "comparison":
            return draw_comparison(
                o.sources, o.images, o.crop, settings, o.data_root, o.zooms, o.at, o.only, o.errors, seen
            )
        case "filters":
            return draw_filters(_learned(o), first, seen, o.frequency, o.common_range)
        case "potentials":
            return draw_potentials(_learned(o), first, seen)
        case "curves":
            return draw_curves(o.sources, o.x, o.panels, o.log_x, seen)
        case "parameters":
            return draw_parameters(Path(first), o.log_x, seen)
        case "convergence":
            return draw_convergence(first, o.images, settings, o.data_root, o.only, o.accuracy, seen)
        case "contrasts":
            return draw_contrasts(first, o.images, settings, o.data_root, o.only, seen)
        case "tradeoff":
            return draw_tradeoff(o.sources, o.x, seen)
    raise AssertionError(o.kind)


def _learned(o: Namespace) -> Regularizer:
    settings = [f"problem.noise_level={o.noise_level}"] if o.noise_level else []
    return load(o.sources[0], settings)[0].regularizer


def _animation(o: Namespace, settings: list[str], seen: Look) -> Animation:
    if o.fps <= 0:
        raise ConfigError(f"--fps {o.fps:g} must be above 0")
    if o.images is None:
        return animate_filters(Path(o.sources[0]), seen)
    return animate_reconstruction(o.sources[0], o.images, settings, o.data_root, o.only, seen)
