"""The figures and tables of a paper about learned regularizers, and a main.tex that shows them.

Models are evaluated on the same measurements, then everything is drawn at the width of a column. Nothing is trained
unless --train names experiments. What is there already is kept, so a run that was stopped goes on; a folder that holds
what other arguments or other models made is refused.

    FOLDER/main.tex           pdflatex main.tex, with graphicx and booktabs alone
    FOLDER/*.pdf, *.tex       figures, and tables of evaluations
    FOLDER/csv/LABEL.csv      one row for each image, as `evaluate --csv` writes it;  LABEL.json: mu, accuracy,
                              converged
    FOLDER/made-with.json     the arguments, and the SHA-256 of every model and curve
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure
from tqdm import tqdm

from app import assemble
from app.cli import resolve_experiment
from app.commands.errors import USER_ERRORS
from app.drawing.comparison import draw_comparison
from app.drawing.learned import draw_filters, draw_potentials
from app.drawing.runs import draw_curves, group_folders
from app.drawing.solves import draw_convergence
from app.drawing.sources import labelled
from app.drawing.tables import draw_tradeoff, evaluations
from app.evaluation.evaluate import evaluate
from app.evaluation.simulation import simulation
from app.evaluation.tables import csv_table
from app.files import fingerprint, write_own
from app.lower.solution import rounded_up
from app.models.catalogue import measured
from app.models.files import find_model
from app.settings.comparison import slug
from app.settings.options import Config, ConfigError
from app.settings.tasks import Deblur
from app.training.session import DONE, finish
from datasets.files import default_data_root
from datasets.image_sets import find_images, names_of
from datasets.images import read_image
from figures import table
from figures.style import FigureError, encoded, escape, look
from figures.table import Evaluated

MODELS = (
    "TV=tv-denoise-grey-25", "convex=foe-denoise-grey-25", "weakly convex=foe-mcp-denoise-grey-25",
    "adaptive=adaptive-foe-mcp-denoise-grey-25",
)  # fmt: skip
SINGLE, DOUBLE = look(width="single"), look(width="double")
SHOWN = 2  # images of the comparison
CROP = 64  # pixels along a side of what is magnified
TASKS = {
    "denoise": "denoising", "deblur": "deblurring", "inpaint": "inpainting", "superres": "super-resolution",
    "mri": "MRI", "tomography": "tomography",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What is shown, and where it goes."""

    models: tuple[tuple[str, str], ...]  # (label, run folder, file or name)
    runs: tuple[str, ...]  # [LABEL=]RUN, whose curves are drawn
    images: str
    paths: tuple[Path, ...]
    names: tuple[str, ...]  # of the same images
    config: Config  # of the first model: what is measured
    data_root: Path
    out: Path

    @property
    def sources(self) -> list[str]:
        """Return the models as [LABEL=]MODEL."""
        return [f"{label}={source}" for label, source in self.models]

    def csv(self, label: str) -> Path:
        """Return the file of the evaluation of a model."""
        return self.out / "csv" / f"{slug(label)}.csv"


@dataclass(frozen=True, kw_only=True)
class Float:
    """A figure or table of main.tex."""

    file: str  # .pdf is a figure, .tex a table
    caption: str  # in LaTeX
    wide: bool = False  # over both columns


def evaluate_all(paper: Paper) -> None:
    """Evaluate every model that is not evaluated yet."""
    for label, source in paper.models:
        if paper.csv(label).is_file():
            continue
        model, config = assemble.load(source, [])
        simulated = simulation(config, model, paper.data_root, dict(enumerate(paper.paths)))
        shapes = simulated.check_images(paper.paths, config.data.color)
        rows = evaluate(simulated, paper.paths, config.data.color, parameters=model.size)
        done = list(tqdm(rows, label, len(paper.paths), unit="image", dynamic_ncols=True))
        mu = min(simulated.bounds(shape, (i,))[0] for i, shape in enumerate(shapes))
        facts = {"mu": mu, "accuracy": config.lower.final_accuracy, "converged": sum(bool(e.converged) for e in done)}
        write_own(paper.csv(label).with_suffix(".json"), json.dumps(facts).encode())
        write_own(paper.csv(label), csv_table(done).encode())  # last: it says that all is there


def certificates(found: dict[str, Evaluated], facts: dict[str, dict[str, float]]) -> str:
    """Return a booktabs tabular of what is proven of the reconstructions by each model."""
    heads = ["method", "numbers", r"$\mu$", "proven", "largest bound", r"of $\|x\|$", "gradients"]
    rows = []
    for label, columns in found.items():
        bounds, n = columns["error_bound"].values(), len(columns["psnr"])
        share = rounded_up(100 * max(columns["relative_bound"].values()), 2)
        numbers = next(iter(columns["parameters"].values()))
        rows.append([
            escape(label), f"{numbers:.0f}", f"{facts[label]['mu']:.2g}", f"{facts[label]['converged']:.0f}/{n}",
            rounded_up(max(bounds), 2), rf"{share}\,\%", f"{fmean(columns['iterations'].values()):.0f}",
        ])  # fmt: skip
    return table.booktabs(heads, rows)


def setting(paper: Paper) -> str:
    """Return in LaTeX what was measured of which images."""
    problem, n = paper.config.problem, len(paper.paths)
    kernel = problem.kernel if isinstance(problem, Deblur) else ""
    images = f"{n} image{'s' * (n > 1)} of {paper.images}" + (", in colour" if paper.config.data.color else ", grey")
    return escape(f"{TASKS[problem.task]}, noise {measured(problem.task, kernel, problem.level)}; {images}")


def drawn(paper: Paper, file: str, draw: Callable[[], Figure]) -> str:
    """Draw a figure unless it is there, and return its file. Raises what the drawing raises."""
    if not (paper.out / file).is_file():
        write_own(paper.out / file, encoded(draw(), ".pdf", DOUBLE))
    return file


def of_some_model(paper: Paper, kind: str, draw: Callable[[str], Figure]) -> tuple[str, str] | None:
    """Draw a figure of the last model that has what is to be drawn; return the label and the file."""
    for label, source in reversed(paper.models):
        with suppress(ConfigError, FigureError):
            return label, drawn(paper, f"{kind}-{slug(label)}.pdf", partial(draw, source))
    return None


def shown_images(paper: Paper) -> tuple[list[str], int]:
    """Return the names of the first images, and the side in pixels of what is magnified of them."""
    sizes = [min(read_image(path, paper.config.data.color).shape[1:]) for path in paper.paths[:SHOWN]]
    return list(paper.names[:SHOWN]), min(CROP, *sizes)


def floats(paper: Paper) -> Iterator[Float]:
    """Write every figure and table that is not there yet, and yield them all with what their captions say. The lines
    are those of the captions."""
    files = [f"{label}={paper.csv(label)}" for label, _ in paper.models]
    found, where, n, root = evaluations(files), setting(paper), len(paper.paths), paper.data_root
    facts = {label: json.loads(paper.csv(label).with_suffix(".json").read_text()) for label, _ in paper.models}
    degraded = fmean(next(iter(found.values()))["psnr_degraded"].values())
    (shown, crop), accuracy = shown_images(paper), max(fact["accuracy"] for fact in facts.values())
    bound = r"$\|x - \arg\min h\| \le \|\nabla h(x)\| / \mu$"
    error = rf"; $\pm$ is the standard error of the mean over the {n} images" if n > 1 else ""

    metrics = tuple(m for m in ("psnr", "ssim") if all(m in columns for columns in found.values()))
    write_own(paper.out / "quality.tex", table.latex(found, metrics).encode())
    yield Float(file="quality.tex", caption=(
        rf"Quality ({where}). The measurements have {degraded:.2f}\,dB. Means{error}. The best value is bold, the "
        "second underlined. All methods see the same noise. PSNR is that of the result clipped to $[0, 1]$."
    ))  # fmt: skip
    write_own(paper.out / "certificates.tex", certificates(found, facts).encode())
    yield Float(file="certificates.tex", wide=True, caption=(
        rf"Certificates ({where}). $h$ is $\mu$-strongly convex, hence {bound}, evaluated in float64 and rounded up. "
        f"Proven: images whose bound is at most {accuracy:g}. Numbers: learned ones. Gradients: of $h$, mean per "
        "image. Of an adaptive model, $h$ is that of its last reconstruction, with the thresholds that were found."
    ))  # fmt: skip
    comparison = partial(draw_comparison, paper.sources, paper.images, crop, [], root, only=shown, look=DOUBLE)
    yield Float(file=drawn(paper, "comparison.pdf", comparison), wide=True, caption=(
        f"Reconstructions of {escape(', '.join(shown))} ({where}), with PSNR in dB and SSIM of the whole image. The "
        rf"magnified region of {crop} $\times$ {crop} pixels is where the errors of the methods differ most."
    ))  # fmt: skip
    yield Float(file=drawn(paper, "tradeoff.pdf", partial(draw_tradeoff, files, "iterations", SINGLE)), caption=(
        f"Quality against cost ({where}). Faint: each image. With bars: the mean and its standard errors over the "
        "images. Every reconstruction is solved to the certified accuracy of its model."
    ))  # fmt: skip
    if one := of_some_model(paper, "filters", partial(draw_filters, look=SINGLE)):
        yield Float(file=one[1], caption=(
            f"Learned filters of {escape(one[0])}, the largest contribution to the regularizer first."
        ))  # fmt: skip
    if one := of_some_model(paper, "potentials", partial(draw_potentials, look=SINGLE)):
        yield Float(file=one[1], caption=(
            f"Learned potentials of {escape(one[0])} and their derivatives, the influence functions."
        ))  # fmt: skip
    convergence = partial(
        draw_convergence, images=paper.images, settings=[], data_root=root, only=shown[:1], look=SINGLE
    )
    if one := of_some_model(paper, "convergence", convergence):
        yield Float(file=one[1], caption=(
            f"Lower-level solvers on {escape(shown[0])} with {escape(one[0])}: the bound {bound} that stops them at "
            "the dotted line, and the true distance to a solution in float64, certified to a hundredth of this."
        ))  # fmt: skip
    if paper.runs:
        curves = partial(draw_curves, list(paper.runs), look=DOUBLE)
        yield Float(file=drawn(paper, "curves.pdf", curves), wide=True, caption=(
            "Training against computations: gradients of $h$, products with its Hessian and preconditioners, summed "
            "over images. Runs that differ in their seed alone are one curve, with a band from the least to the "
            "largest value."
        ))  # fmt: skip


PREAMBLE = r"""% Written by scripts/paper. Compile with: pdflatex main.tex (twice, for the references)
\documentclass[twocolumn]{article}
\usepackage{graphicx}
\usepackage{booktabs}
% Figures are drawn for columns of 8.4 cm and pages of 17.4 cm, with text of 8 pt: include them unscaled.
\setlength{\textwidth}{17.4cm}
\setlength{\columnsep}{0.6cm}
\setlength{\oddsidemargin}{\dimexpr(\paperwidth-\textwidth)/2-1in\relax}
\setlength{\textheight}{23cm}
\setlength{\topmargin}{-1.5cm}
\setlength{\tabcolsep}{4pt}
% Floats may fill a page, so that nothing but floats leaves no gaps.
\renewcommand{\topfraction}{0.95}
\renewcommand{\dbltopfraction}{0.95}
\renewcommand{\textfraction}{0.05}
\renewcommand{\floatpagefraction}{0.8}
\renewcommand{\dblfloatpagefraction}{0.8}
"""


def block(float_: Float) -> str:
    """Return the environment of a figure or table; the caption of a table stands above it."""
    is_table = float_.file.endswith(".tex")
    environment = ("table" if is_table else "figure") + "*" * float_.wide
    stem = float_.file.rpartition(".")[0]
    caption = rf"\caption{{{float_.caption}}}\label{{{stem}}}"
    body = rf"\small\input{{{float_.file}}}" if is_table else rf"\includegraphics{{{float_.file}}}"
    lines = [caption, body] if is_table else [body, caption]
    return "\n".join([rf"\begin{{{environment}}}[tbp]\centering", *lines, rf"\end{{{environment}}}"])


def page(about: str, shown: list[Float]) -> str:
    """Return main.tex: a sentence that names every float, and the floats."""
    tables = [rf"\ref{{{f.file.rpartition('.')[0]}}}" for f in shown if f.file.endswith(".tex")]
    figures = [rf"\ref{{{f.file.rpartition('.')[0]}}}" for f in shown if f.file.endswith(".pdf")]
    text = f"Tables {', '.join(tables)} and Figures {', '.join(figures)}: {about}."
    body = [r"\begin{document}", rf"\noindent {text}", "", "\n\n".join(map(block, shown)), r"\end{document}"]
    return PREAMBLE + "\n".join(body) + "\n"


def claim(paper: Paper, arguments: dict[str, object]) -> None:
    """Note in the folder what it is made with. Raises ConfigError where it was made with something else."""
    models = {label: fingerprint(find_model(source)) for label, source in paper.models}
    runs = {str(f): fingerprint(f / "metrics.csv") for g in group_folders(list(paper.runs)).values() for f in g}
    made = json.dumps({**arguments, "models": models, "runs": runs}, indent=1).encode()
    file = paper.out / "made-with.json"
    if file.is_file() and file.read_bytes() != made:
        raise ConfigError(f"{paper.out} holds what other arguments or models made: remove it, or choose another --out")
    (paper.out / "csv").mkdir(parents=True, exist_ok=True)
    write_own(file, made)


def trained(experiments: list[str], out: Path, data_root: Path) -> list[str]:
    """Train experiments to their ends in OUT/runs, from wherever they are, and return them as LABEL=RUN. Raises
    ConfigError and RunError."""
    sources = []
    for name, config in [resolve_experiment(experiment, []) for experiment in experiments]:
        folder = out / "runs" / name
        if finish(config, folder, data_root, False, f"scripts/paper --train {name}") != DONE:
            raise ConfigError(f"{name} diverged: nothing to show of it")
        sources.append(f"{name}={folder}")
    return sources


def planned(o: argparse.Namespace) -> Paper:
    """Train what is to be trained, and check everything before anything else is written. Raises ConfigError,
    ModelError, ImageError and RunError."""
    if o.count is not None and o.count < 1:
        raise ConfigError("--count must be at least 1")
    mine = trained(o.train, o.out, o.data_root)
    models = tuple(labelled([*(o.models or ([] if mine else MODELS)), *mine]))
    if len({slug(label) for label, _ in models}) < len(models) or any("/" in label for label, _ in models):
        raise ConfigError("every model needs a label of its own: LABEL=MODEL")
    loaded = assemble.load_comparable([source for _, source in models], [])
    _, config = next(iter(loaded.values()))
    paths = find_images(o.images, o.data_root, config.data.color).paths[: o.count]
    return Paper(
        models=models, runs=(*o.runs, *mine), images=o.images, paths=paths, names=tuple(names_of(paths)),
        config=config, data_root=o.data_root, out=o.out,
    )  # fmt: skip


def main() -> None:
    """Make the folder, or go on with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="[LABEL=]MODEL", help=f"(default: {', '.join(MODELS)})")
    parser.add_argument("--train", nargs="+", default=[], metavar="EXPERIMENT", help="train these, too (default: none)")
    parser.add_argument("--runs", nargs="+", default=[], metavar="[LABEL=]RUN", help="draw their training curves")
    parser.add_argument("--images", default="bsds500:bsd68", help="(default: %(default)s)")
    parser.add_argument("--count", type=int, help="how many images, from the first (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--data-root", type=Path, default=default_data_root())
    o = parser.parse_args()
    try:
        paper = planned(o)
        claim(paper, {"models_given": o.models, "images": o.images, "count": o.count, "runs_given": o.runs})
        evaluate_all(paper)
        shown = list(floats(paper))
        write_own(paper.out / "main.tex", page(setting(paper), shown).encode())
        print(paper.out / "main.tex")
    except (*USER_ERRORS, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
