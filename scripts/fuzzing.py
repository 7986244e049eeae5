"""Bad command lines at random: each must end with exit code 2 and one line on stderr, and change no file.

Kinds of mistakes: a setting with a value of another kind, an unknown or misspelled key, a damaged image, model, kernel
or table, a damaged run folder, an option or argument that is wrong or missing. A command line belongs to (seed,
number). Where several images cannot be used, each has a line of its own.
"""

import argparse
import contextlib
import io
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
from PIL import Image

from app.cli import PRESETS, main
from app.drawing.kinds import KINDS
from app.models.files import PRETRAINED
from app.settings.options import SECTIONS

MODEL = "tv-denoise-grey-25"
SMALL = (
    "data.images=builtin:train data.validation=builtin:test data.patch_size=16 run.steps=1 regularizer.weight=0.1 "
    "data.validation_crop=16"
)
VALUES = (
    "nan",
    "-inf",
    "1e400",
    "-7e77",
    "",
    "[1, 2, 3]",
    "{a=1}",
    "true false",
    "\x1b[2J",
    "[" * 3000,
    "9" * 400,
    "é",
)
KEYS = [(s, f.name) for s, section in SECTIONS.items() for f in fields(section.choices[0])]
COMMANDS = ("train", "resume", "compare", "evaluate", "reconstruct", "check", "figure", "report", "models", "data")
Mistake = Callable[[random.Random, Path], list[str]]  # (chance, an empty folder) -> a command line


def setting(chance: random.Random, folder: Path) -> list[str]:
    """Return a training with one impossible value."""
    section, key = chance.choice(KEYS)
    preset = chance.choice(sorted(p.stem for p in PRESETS.glob("*-denoise.toml")))
    return ["train", preset, *_set(SMALL.split()), "--set", f"{section}.{key}={chance.choice(VALUES)}"]


def misspelled(chance: random.Random, folder: Path) -> list[str]:
    """Return a command with a key that does not exist, or that nothing reads for this task."""
    section, key = chance.choice(KEYS)
    place = chance.randrange(len(key))
    wrong = chance.choice(
        [f"{section}.{key[:place]}{key[place + 1 :]}_=1", f"{key}=1", f"{section}={key}", f"{section}.{key}",
         "problem.kernel=levin:1", f"{section}.{key}.{key}=1", "=", "."]
    )  # fmt: skip
    command = chance.choice(
        [["train", "tv-denoise"], ["evaluate", MODEL, "--images", "builtin:test"], ["check", MODEL]]
    )
    return [*command, "--set", wrong]


def damaged_image(chance: random.Random, folder: Path) -> list[str]:
    """Return a command that reads a file which is cut short, no image, or of numbers without a scale."""
    suffix = chance.choice([".png", ".jpg", ".tif", ".bmp", ".npy"])
    file, stream = folder / f"a{suffix}", io.BytesIO()
    pixels = np.arange(48 * 40, dtype=np.uint8).reshape(48, 40)
    if suffix == ".npy":
        np.save(stream, chance.choice([pixels.astype(float), pixels > 3, pixels.astype("U9"), pixels[None, None]]))
    else:
        form = {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper())
        Image.fromarray(pixels).save(stream, form)
    file.write_bytes(_damaged(chance, stream.getvalue()) if suffix != ".npy" else stream.getvalue())
    return chance.choice([
        ["evaluate", MODEL, "--images", str(file)],
        ["reconstruct", MODEL, str(file), "--out", str(folder / "out")],
        ["train", "tv-denoise", *_set(SMALL.split()), "--set", f"data.images={folder}"],
        ["figure", "comparison", MODEL, "--images", str(file), "--out", str(folder / "a.pdf")],
    ])  # fmt: skip


def damaged_model(chance: random.Random, folder: Path) -> list[str]:
    """Return a command that reads a model file which was cut short or changed."""
    file, data = folder / "a.safetensors", (PRETRAINED / f"{MODEL}.safetensors").read_bytes()
    file.write_bytes(_damaged(chance, data))
    return chance.choice([
        ["evaluate", str(file), "--images", "builtin:test"],
        ["reconstruct", str(file), "builtin:test", "--degrade", "--out", str(folder / "out")],
        ["models", "show", str(file)], ["check", str(file)], ["models", "ship", str(file)],
        ["figure", "potentials", str(file), "--out", str(folder / "a.png")],
        ["train", "transfer-inpaint", "--set", f"regularizer.start={file}"],
    ])  # fmt: skip


def damaged_kernel(chance: random.Random, folder: Path) -> list[str]:
    """Return a command that reads a blur kernel which is none."""
    kernel = chance.choice([
        np.zeros((5, 5)), np.full((3, 3), np.nan), np.ones((2000, 3)), np.ones(7), np.ones((3, 3), complex),
        np.ones((0, 3)),
    ])  # fmt: skip
    np.save(folder / "k.npy", kernel)
    np.savez(folder / "k.npz", k=kernel)
    (folder / "k.mat").write_bytes(chance.randbytes(300))
    (folder / "k.png").write_bytes(chance.randbytes(300))
    names = [f"{folder}/k.npy", f"{folder}/k.npz:k", f"{folder}/k.npz:no", f"{folder}/k.mat:k", f"{folder}/k.png",
             f"{folder}/no.npy", "levin:9", "levin:0", "gaussian:4:1", "gaussian:5:-1", "gaussian:1:1:1",
             "none"]  # fmt: skip
    return ["evaluate", "tv-deblur-grey-gaussian", "--images", "builtin:test", "--kernel", chance.choice(names)]


def damaged_run(chance: random.Random, folder: Path) -> list[str]:
    """Return a command on a folder that is no run any more."""
    run = folder / "run"
    run.mkdir()
    text = chance.choice(["", "[run]\nsteps = -1", "[problem]\ntask = 'x'", "[", "\x00", "[run]\nsteps = 5"])
    (run / "config.toml").write_text(text)
    if chance.random() < 0.5:
        (run / "metrics.csv").write_bytes(chance.randbytes(200))
        (run / "model.safetensors").write_bytes(chance.randbytes(200))
    return chance.choice([
        ["evaluate", str(run), "--images", "builtin:test"], ["report", str(run)], ["compare", str(run), str(run)],
        ["figure", "curves", str(run), "--out", str(folder / "c.png")], ["models", "ship", str(run)],
        ["figure", "parameters", str(run), "--out", str(folder / "c.png")], ["train", "tv-denoise", "--out", str(run)],
    ])  # fmt: skip


def damaged_table(chance: random.Random, folder: Path) -> list[str]:
    """Return a figure of a file of settings or results that holds something else."""
    csv, toml = folder / "a.csv", folder / "a.toml"
    csv.write_text(chance.choice(["", "a,b\n1", "image,psnr\nx,y\n", "\x00\x01", "image\n", "psnr,psnr\n1,1\n"]))
    toml.write_text(chance.choice(["a", "[run]\nsteps='x'", "[[variant]]", "seeds=[]", "run=1", "[data]\nimages=3"]))
    return chance.choice([
        ["figure", "tradeoff", str(csv), "--out", str(folder / "a.png")],
        ["figure", "table", str(csv), "--out", str(folder / "a.tex")],
        ["train", str(toml)], ["compare", str(toml)], ["check", str(toml)],
    ])  # fmt: skip


def wrong_option(chance: random.Random, folder: Path) -> list[str]:
    """Return a command with a wrong, a missing or an unknown argument."""
    kind = chance.choice(sorted(KINDS))
    return chance.choice([
        [chance.choice(COMMANDS)[:-1]], [chance.choice(COMMANDS[:6])], [],
        [chance.choice(COMMANDS), f"--{chance.choice(['colour', 'outt', 'x', ''])}x"],
        ["evaluate", MODEL, "--images", chance.choice(["bsds500:vall", "builtin:no", "no/such", "", "set12:", ":"])],
        ["evaluate", MODEL, "--images", "builtin:test", "--noise-level",
         chance.choice(["25", "-1", "x", "1/0", "nan", "2,1"])],
        ["evaluate", MODEL, "--images", "builtin:test", "--baselines", chance.choice(["wiener", "x", "tv,,", "tv,x"])],
        ["evaluate", MODEL, MODEL[:-1], "--images", "builtin:test"],
        ["evaluate", MODEL, "--images", "builtin:test", "--task", chance.choice(["deblurr", "", "Denoise", "none"])],
        ["evaluate", MODEL, "--images", "builtin:test", "--csv", str(folder / "no" / "such" / "a.csv")],
        ["reconstruct", MODEL, "builtin:test", "--out", str(folder / "o"), "--range", "1",
         chance.choice(["0", "nan", "1"])],
        ["figure", kind, MODEL, "--dpi", "0", "--out",
         str(folder / chance.choice(["a.doc", "a", ".png", "no/such/a.png"]))],
        ["figure", kind + "s", MODEL], ["resume", str(folder)], ["data", "fetch", "no"], ["models", "show", "no"],
        ["train", "no-such"], ["train", MODEL], ["compare", "no", "such"], ["train", "tv-denoise", "--out", "/proc/x"],
        ["compare", "tv-denoise", "--seeds", chance.choice(["-1", "x", "1.5", "1 2", "9" * 30])],
    ])  # fmt: skip


MISTAKES: tuple[Mistake, ...] = (
    setting, misspelled, damaged_image, damaged_model, damaged_kernel, damaged_run, damaged_table, wrong_option,
)  # fmt: skip


def _set(assignments: Iterable[str]) -> list[str]:
    return [word for one in assignments for word in ("--set", one)]


def _damaged(chance: random.Random, data: bytes) -> bytes:
    """A file that is cut short in its first half, or replaced by noise or text."""
    return chance.choice([data[: chance.randrange(len(data) // 2)], chance.randbytes(len(data)), b"text\n", b""])


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, and its folders as empty ones."""
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def fault(command: list[str], folder: Path) -> str:
    """Run a command line in this folder and return what is wrong with its refusal, or ""."""
    before, out, errors, home = contents(folder), io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = main(command)
    except SystemExit as left:
        code = left.code
    except BaseException as error:  # what a user would see as a traceback
        return f"{type(error).__name__}: {error}"
    finally:
        os.chdir(home)
    lines = [line for line in errors.getvalue().splitlines() if line.strip()]
    if code != 2:
        return f"exit code {code}"
    listed = "images cannot be used:" in errors.getvalue()
    if (len(lines) != 1 and not listed) or not lines[0].startswith("error: ") or len(lines[0]) > 2000:
        return f"{len(lines)} lines: {errors.getvalue()[-300:]}"
    changed = {name for name, _ in contents(folder).items() ^ before.items()}
    return f"changed {', '.join(sorted(changed))}" if changed else ""


def one(n: int, seed: int, folder: Path) -> tuple[list[str], str]:
    """Return command line n, made and run in a new folder, and what is wrong with its refusal, or ""."""
    folder.mkdir(exist_ok=True)
    command = MISTAKES[n % len(MISTAKES)](random.Random(f"{seed} {n}"), folder)
    return command, fault(command, folder)


def faults(count: int, seed: int) -> Iterator[tuple[list[str], str]]:
    """Yield those of so many command lines that are not refused as they should be, and why."""
    for n in range(count):
        with tempfile.TemporaryDirectory() as folder:
            command, found = one(n, seed, Path(folder))
        if found:
            yield command, found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=300, help="bad command lines (default: %(default)s)")
    parser.add_argument("seed", type=int, nargs="?", default=0)
    count, seed = (o := parser.parse_args()).count, o.seed
    wrong = 0
    for wrong, (command, found) in enumerate(faults(count, seed), 1):  # noqa: B007
        print(f"{' '.join(word[:80] for word in command)}\n    {found}", flush=True)
    print(f"{count} bad command lines, {wrong} not refused as they should be (seed {seed})")
    raise SystemExit(wrong > 0)
