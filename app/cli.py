"""Command line. Imports torch only once the arguments are known to be right, so that `--help` and typing errors
answer at once."""

import argparse
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from app.drawing.arguments import OTHER_METHODS, Container, number, path, shard, split_label
from app.drawing.kinds import add_kinds
from app.memory import keep_freed_memory
from app.ranks import several, silence_all_but_first
from app.settings.comparison import Comparison, is_comparison, read_comparison
from app.settings.options import Config, ConfigError
from app.settings.toml import is_set, load, override
from datasets.files import default_data_root, home_expanded, printable

LONGEST = 1600  # characters of a line about a mistake
MODEL = "a run folder, a .safetensors file or the name of a shipped model"
MODELS = "list the models that come with the program, show what is known about one, or ship another"
FIGURE = "Draw a figure or a table that goes into a paper unchanged; `figure KIND --help` explains each kind."
COMPARISONS = Path(__file__).parent.parent / "scripts" / "comparisons"
PRESETS = Path(__file__).parent.parent / "scripts" / "experiments"


def main(arguments: list[str] | None = None) -> int:
    """Run one command. A mistake the user can mend ends in one line on stderr and exit code 2."""
    silence_all_but_first()
    try:
        options = _parser().parse_args(arguments)
        _check_shared(options)
        options.typed = shlex.join(["python", "-m", "app", *(sys.argv[1:] if arguments is None else arguments)])
        keep_freed_memory()
        return options.command(options) or 0
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    except OSError as error:
        _complain(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except ConfigError as error:
        _complain(error)
    except (ValueError, ArithmeticError, RuntimeError) as error:
        from app.commands.errors import USER_ERRORS

        if not isinstance(error, USER_ERRORS):
            raise
        _complain(error)
    return 2


def _complain(error: object) -> None:
    """Names may hold control characters, and be of any length; several lines name several files."""
    lines = [printable(line) for line in str(error).split("\n")]
    cut = [line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 4 :]}" for line in lines]
    print("error:", "\n".join(cut), file=sys.stderr)


def resolve_experiment(name: str, assignments: list[str]) -> tuple[str, Config]:
    """Return the name and the configuration of a preset or a TOML file, with --set applied. Raises ConfigError. What a
    preset says and another choice no longer reads is dropped; what the user's own file says must be read."""
    preset = PRESETS / f"{name}.toml"
    if preset.is_file():
        return preset.stem, override(load(preset), assignments)
    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        presets = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
        raise ConfigError(f"no experiment {name!r}: give a TOML file or one of {presets}")
    return path.stem, load(path, assignments)


def _train(options: argparse.Namespace) -> int:
    name, config = resolve_experiment(options.experiment, options.set)
    folder = options.out or Path("runs") / name
    from app.commands.train import train

    return train(config, folder, options.data_root, options.quiet, command=options.typed)


def _resume(options: argparse.Namespace) -> int:
    config_file = options.run / "config.toml"
    if not config_file.is_file():
        raise ConfigError(f"{options.run} is not a run folder (no config.toml)")
    config = override(load(config_file), options.set)
    from app.commands.train import resume

    return resume(config, options.run, options.data_root, options.quiet, options.typed, options.accept_changes)


def _compare(options: argparse.Namespace) -> int:
    """Finished runs, or experiments to be trained: a comparison file, or presets and TOML files."""
    sources, out = options.sources, options.out
    if all((home_expanded(split_label(s)[1]) / "config.toml").is_file() for s in sources):
        if options.set or options.seeds or options.full or options.sweep or options.shard:
            raise ConfigError(
                "runs are compared as they are; --set, --seeds, --full, --sweep and --shard are for experiments"
            )
        from app.commands.compare import compare_runs

        return compare_runs(sources, out or Path("runs") / "comparison", options.data_root)
    comparison = resolve_comparison(sources, options.set, options.full)
    if options.seeds:
        comparison = replace(comparison, seeds=tuple(options.seeds))
    out = out or Path("runs") / comparison.name
    if options.sweep and options.shard:
        raise ConfigError("--shard is not for --sweep, whose multiples wait for the step that is found")
    if options.sweep:
        from app.training.sweep import sweep

        return sweep(comparison, out, options.data_root, options.quiet, options.typed)
    if options.shard:
        from app.commands.compare import compare_shard

        return compare_shard(comparison, options.shard, out, options.data_root, options.quiet, options.typed)
    from app.commands.compare import compare

    return compare(comparison, out, options.data_root, options.quiet, options.typed)


def resolve_comparison(sources: list[str], assignments: list[str], full: bool) -> Comparison:
    """Return one comparison (scripts/comparisons/NAME.toml or a file with [[variant]]), or experiments by their names.
    Raises ConfigError."""
    path = COMPARISONS / f"{sources[0]}.toml"
    if not path.is_file():
        path = Path(sources[0])
    if len(sources) == 1 and is_comparison(path):
        return read_comparison(path, lambda name: resolve_experiment(name, [])[1], assignments, full)
    if full:
        raise ConfigError("--full is for comparisons that define it")
    try:
        named = [resolve_experiment(source, assignments) for source in sources]
    except ConfigError as error:
        if not str(error).startswith("no experiment"):
            raise
        comparisons = ", ".join(sorted(p.stem for p in COMPARISONS.glob("*.toml")))
        raise ConfigError(f"{error}, or a comparison: {comparisons}") from None
    return Comparison(name="comparison", about="", variants=dict(named), seeds=(0,))


def _evaluate(options: argparse.Namespace) -> int:
    from app.commands.evaluate import evaluate

    return evaluate(options, _settings(options))


def _reconstruct(o: argparse.Namespace) -> int:
    from app.commands.reconstruct import reconstruct

    return reconstruct(o, _settings(o))


def _check(options: argparse.Namespace) -> int:
    """Presets and TOML files are experiments; everything else is a model."""
    settings, source = _settings(options), options.source
    is_experiment = source.endswith(".toml") or (PRESETS / f"{source}.toml").is_file()
    experiment = resolve_experiment(source, settings)[1] if is_experiment else None
    from app.commands.check import check

    return check(options, settings, experiment)


def _figure(options: argparse.Namespace) -> int:
    from app.commands.figure import figure

    return figure(options, _settings(options) if "task" in options else [])


def _report(options: argparse.Namespace) -> int:
    from app.commands.report import report

    return report(options.run, options.out, options.images, options.data_root)


def _data(options: argparse.Namespace) -> int:
    from app.commands import data

    if options.action == "list":
        return data.list_sets(options.data_root)
    if options.name is None:
        raise ConfigError(f"data {options.action} needs the name of a set: bsds500")
    if options.action == "fetch":
        return data.fetch(options.name, options.data_root, options.quiet)
    return data.check(options.name, options.data_root)


def _models(options: argparse.Namespace) -> int:
    from app.commands import models

    if options.action == "list":
        return models.list_models(options.markdown)
    if options.action == "show":
        return models.show(options.model)
    return models.ship(options)


def _settings(options: argparse.Namespace) -> list[str]:
    """The settings of a command; --task, --noise-level, --kernel, --mask are short for --set problem.*. Raises
    ConfigError where both are given."""
    short = {name: getattr(options, name) for name in ("task", "noise_level", "kernel", "mask")}
    given = {f"problem.{k}": v for k, v in short.items() if v is not None}
    for key in given:
        if is_set(key, options.set):
            raise ConfigError(f"{key} is given twice: by --{key.partition('.')[2].replace('_', '-')} and by --set")
    return [f"{key}={value}" for key, value in given.items()] + options.set


def _check_shared(options: argparse.Namespace) -> None:
    if several() and options.command not in SHARED:
        raise ConfigError("torchrun with several processes is for train, resume, evaluate and reconstruct")


SHARED = (_train, _resume, _evaluate, _reconstruct)  # commands whose images several processes share out


class _Parser(argparse.ArgumentParser):
    """Answers a typing error in one line, and names the command whose --help would have helped."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown here: {' '.join(unknown)}")
        return namespace, unknown


def _parser() -> argparse.ArgumentParser:
    """Return the command line: a table of all commands, hence its many lines."""
    parser = _Parser(prog="python -m app", description="Learn image regularizers by stochastic bilevel optimisation.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def data_root(sub: Container) -> None:
        sub.add_argument(
            "--data-root", type=path, default=default_data_root(), metavar="DIR",
            help="where image sets and kernels lie (default: $APP_DATA_ROOT or ./data)",
        )  # fmt: skip

    def command(name: str, run, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=run)
        data_root(sub)
        sub.add_argument("--quiet", action="store_true", help="no progress bar")
        return sub

    def settings(sub: Container) -> None:
        sub.add_argument(
            "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting (repeatable)"
        )

    def scale(sub: Container, of: str) -> None:
        sub.add_argument(
            "--range", type=float, nargs=2, metavar=("BLACK", "WHITE"),
            help=f"values of black and white in arrays and float TIFF{of}",
        )  # fmt: skip

    def problem(sub: Container) -> None:
        settings(sub)
        sub.add_argument(
            "--task", help="denoise | deblur | inpaint | superres | mri | tomography (default: that of the model)"
        )
        sub.add_argument("--noise-level", help="standard deviation on the scale [0, 1], such as 25/255")
        sub.add_argument(
            "--kernel", help="gaussian:SIZE:WIDTH | levin:1 ... levin:8 | levin:all | FILE[:KEY] (.npz, .h5, .mat) | "
            "a .npy or image file",
        )  # fmt: skip
        sub.add_argument(
            "--mask", metavar="FILE", help="what was measured: an image (white), an array (1), or a folder with one of "
            "them per image",
        )  # fmt: skip

    train = command("train", _train, "learn a regularizer")
    train.add_argument("experiment", help="a preset (scripts/experiments) or a TOML file")
    train.add_argument("--out", type=path, metavar="DIR", help="run folder (default: runs/EXPERIMENT)")
    settings(train)

    resume = command("resume", _resume, "continue a run from its checkpoint")
    resume.add_argument("run", type=path, help="run folder")
    resume.add_argument("--accept-changes", action="store_true", help="also with other images or kernels than so far")
    settings(resume)

    compare = command("compare", _compare, "train several experiments, or take runs: one table, one figure")
    compare.add_argument("sources", nargs="+", metavar="COMPARISON_OR_EXPERIMENT_OR_RUN")
    compare.add_argument("--out", type=path, metavar="DIR", help="folder of the runs, table and figure")
    compare.add_argument(
        "--seeds", type=number(int, 0, 2**62), nargs="+", metavar="SEED", help="train each with these seeds"
    )
    compare.add_argument("--full", action="store_true", help="at the sizes of the paper instead of those of a laptop")
    compare.add_argument(
        "--shard", type=shard, metavar="i/n",
        help="train the runs of job i of n, which share --out; the job that ends last draws the table",
    )  # fmt: skip
    compare.add_argument(
        "--sweep", action="store_true", help="train each with the step it finds and with multiples of it: one table"
    )
    settings(compare)

    evaluate = command("evaluate", _evaluate, "PSNR, SSIM and certificates on a set of images")
    evaluate.add_argument(
        "models", nargs="+", metavar="MODEL", help="run folders, .safetensors files or names of shipped models"
    )
    evaluate.add_argument("--images", required=True, metavar="SET", help="SET, SET:SPLIT+SPLIT, a folder or an image")
    evaluate.add_argument(
        "--count", type=number(int, 1, 10**9), metavar="N", help="the first N images only (default: all)"
    )
    evaluate.add_argument("--csv", type=path, metavar="FILE", help="one row per image, and their mean")
    evaluate.add_argument("--latex", type=path, metavar="FILE", help="the means as a LaTeX table")
    evaluate.add_argument("--markdown", type=path, metavar="FILE", help="the means and certificates as Markdown")
    for add in OTHER_METHODS:
        add(evaluate)
    evaluate.add_argument(
        "--measured", metavar="FOLDER", help="what was measured of the images, in files of the same names: nothing is "
        "simulated",
    )  # fmt: skip
    scale(evaluate, " of --measured (default: 0 1)")
    problem(evaluate)

    reconstruct = command("reconstruct", _reconstruct, "reconstruct image files")
    reconstruct.add_argument("model", help=MODEL)
    reconstruct.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="measured images, arrays FILE[:KEY] (.npy, .npz, .h5, .mat), or a SET; of blurred ones the pixels behind "
        "the border are unknown (problem.border)",
    )  # fmt: skip
    about = "folder for the results: PNG as deep as the image; of floats .tif or .npy"
    reconstruct.add_argument("--out", type=path, required=True, metavar="DIR", help=about)
    reconstruct.add_argument("--degrade", action="store_true", help="the images are clean: measure them first")
    reconstruct.add_argument(
        "--continue", action="store_true", dest="keep", help="keep the results that are in --out, and make the others"
    )
    reconstruct.add_argument(
        "--format", choices=("png", "tif"), default="png", help="of results that are not floats (default: png)"
    )
    scale(reconstruct, ", such as 0 1; results have the same scale")
    problem(reconstruct)

    check = command("check", _check, "verify derivatives, bounds and certificates: one table, exit code 1 on failure")
    check.add_argument(
        "source", nargs="?", default="foe-mcp-denoise-grey-25", metavar="MODEL_OR_EXPERIMENT",
        help=f"{MODEL}, or a preset or TOML file, with its first parameters (default: %(default)s)",
    )  # fmt: skip
    problem(check)

    figure = commands.add_parser("figure", help="draw a figure or a table", description=FIGURE)
    figure.set_defaults(command=_figure)
    add_kinds(figure, data_root, problem)

    report = command("report", _report, "one HTML file about a run, for any browser")
    report.add_argument("run", type=path, help="run folder")
    report.add_argument("--out", type=path, metavar="FILE.html", help="(default: RUN/report.html)")
    report.add_argument("--images", metavar="SET", default="builtin:test", help="clean images (default: builtin:test)")

    models = commands.add_parser("models", help=MODELS, description=MODELS)
    models.set_defaults(command=_models)
    actions = models.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    listing = actions.add_parser("list", help="one table of the models that come with the program")
    listing.add_argument("--markdown", action="store_true", help="as the page regularizers/pretrained/README.md")
    show = actions.add_parser("show", help="how a model was made, and how well it reconstructs")
    show.add_argument("model", help=MODEL)
    ship = actions.add_parser("ship", help="assess a model and put it among the shipped ones")
    ship.add_argument("model", help=MODEL)
    ship.add_argument("--name", help="(default: REGULARIZER-TASK-grey|color-LEVEL)")
    ship.add_argument("--images", nargs="+", metavar="SET", default=["bsds500:val32", "bsds500:bsd68"],
                      help="(default: bsds500:val32 and bsds500:bsd68)")  # fmt: skip
    ship.add_argument("--noise-levels", nargs="+", default=[], metavar="LEVEL", help="such as 15/255 25/255 50/255")
    ship.add_argument("--kernels", nargs="+", default=[], metavar="KERNEL", help="such as levin:1 levin:2")
    ship.add_argument("--quiet", action="store_true", help="no progress bar")
    data_root(ship)

    data = command("data", _data, "list, fetch or check image sets")
    data.add_argument("action", choices=("list", "fetch", "check"))
    data.add_argument("name", nargs="?", help="bsds500")
    return parser
