"""What may be learned from: anything but the images on which results are reported."""

from pathlib import Path

from app.options import ConfigError
from datasets.held_out import of_bsd68
from datasets.image_sets import ImageSet, find_images


def images_to_learn_from(purpose: str, spec: str, data_root: Path, color: bool) -> ImageSet:
    """The images to train, validate or tune on. Raises ConfigError where one of them is of BSD68."""
    found = find_images(spec, data_root, color)
    if reported := of_bsd68(found.paths):
        raise ConfigError(
            f"{purpose} = {spec} holds {len(reported)} images of BSD68 ({reported[0].name}, ...), on which results are "
            f"reported: train on bsds500:train+test, validate on bsds500:val32"
        )
    return found
