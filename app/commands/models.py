"""`models list`, `models show` and `models ship`."""

from argparse import Namespace

from app.evaluation import assess
from app.models.card import read_card
from app.models.catalogue import describe, markdown, overview
from app.models.files import shipped


def list_models(as_markdown: bool) -> int:
    """Print one table of the shipped models."""
    cards = [read_card(str(file)) for file in shipped().values()]
    print(markdown(cards) if as_markdown else overview(cards))
    return 0


def show(spec: str) -> int:
    """Print what is known about a model. Raises ModelError."""
    print(describe(read_card(spec)))
    return 0


def ship(options: Namespace) -> int:
    """Assess a model, keep it, and print its card. Raises ConfigError and ModelError."""
    target = assess.ship(
        options.model, name=options.name, images=options.images, noise_levels=options.noise_levels,
        kernels=options.kernels, data_root=options.data_root, quiet=options.quiet,
    )  # fmt: skip
    print(f"{describe(read_card(str(target)))}\n\n{target}")
    return 0
