"""Libraries that draw from the global random generators, tied to the clip's own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def private_randomness(generator: torch.Generator) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python from a clip's own, and put them back."""
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    states = np.random.get_state(), random.getstate()  # noqa: NPY002 (libraries draw from the global generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(states[0])  # noqa: NPY002
            random.setstate(states[1])
