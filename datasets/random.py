"""Random numbers that belong to an image, not to the order in which images were asked for."""

import numpy as np
import torch

CROPS, NOISE, MASKS, ORDER, TEST_NOISE, SUBSET, KERNELS, LEVELS, RECORRUPTION, PHASES = range(10)  # independent streams


def generator(seed: int, stream: int, *key: int) -> torch.Generator:
    """Return a generator determined by (seed, stream, key) alone, so that any draw can be repeated without its past."""
    state = np.random.SeedSequence([seed, stream, *key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
