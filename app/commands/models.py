"""`models list`, `models show` and `models ship`."""

from pathlib import Path

import torch
from tqdm import tqdm

from app import assemble
from app.evaluation.assess import assess
from app.evaluation.evaluate import evaluate
from app.evaluation.simulation import simulation
from app.models import files as models
from app.models.card import blur_text, full_name, read_card
from app.models.catalogue import describe, overview
from app.models.files import find_model, load_model, read_facts, save_model, shipped
from app.models.provenance import contention, processor
from app.settings.options import ConfigError
from app.settings.toml import override
from datasets.image_sets import find_images


def list_models() -> int:
    print(overview([read_card(str(file)) for file in shipped().values()]))
    return 0


def show(spec: str) -> int:
    print(describe(read_card(spec)))
    return 0


def ship(
    spec: str,
    name: str | None,
    images: list[str],
    noise_levels: list[str],
    kernels: list[str],
    data_root: Path,
    quiet: bool,
) -> int:
    """Assess a model at every noise level and with every kernel on every image set, and keep it, in float32, with what
    was found. A shipped model may be assessed again; another one is not overwritten."""
    model, config = load_model(spec)
    config = override(config, ["run.precision=float32"])
    levels = [override(config, [f"problem.noise_level={n}"]).problem.level for n in noise_levels]
    levels = levels or [config.problem.level]
    kernels = kernels or [blur_text(config.problem)]
    source = find_model(spec)
    target = models.PRETRAINED / f"{name or full_name(config, levels, kernels)}.safetensors"
    if target.exists() and not target.samefile(source):
        raise ConfigError(f"{target} exists already: remove it first, or choose another --name")
    settings = [["run.precision=float32", f"problem.noise_level={n}", *([f"problem.kernel={k}"] if k else [])]
                for n in levels for k in kernels]  # fmt: skip
    found = [_assess(spec, each, own, data_root, quiet) for own in settings for each in images]
    facts = {**read_facts(source), "evaluations": found}
    save_model(target, model.to(torch.device("cpu"), torch.float32), config, facts)
    print(f"{describe(read_card(str(target)))}\n\n{target}")
    return 0


def _assess(spec: str, images: str, settings: list[str], data_root: Path, quiet: bool) -> dict[str, object]:
    model, config = assemble.load(spec, settings)
    reconstruct = simulation(config, model, data_root)
    paths = find_images(images, data_root, config.data.color).paths
    rows = evaluate(reconstruct, paths, config.data.color)
    done = list(tqdm(rows, images, len(paths), disable=quiet, unit="image", dynamic_ncols=True))
    shapes = {i: reconstruct.read(path, config.data.color).shape[1:] for i, path in enumerate(paths)}
    bounds = [reconstruct.bounds(shape, (i,)) for i, shape in shapes.items()]
    extremes = min(mu for mu, _ in bounds), max(largest for _, largest in bounds)
    machine = processor(assemble.device_of(config)) + contention()
    return assess(images, config.problem, config.lower.final_accuracy, done, extremes, machine)
