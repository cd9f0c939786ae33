"""Named streams of random numbers: streams with different names are independent of each other."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator_for(*parts: int | str) -> torch.Generator:
    """Return a new generator at the start of the stream that the parts name, such as (seed, "order", epoch)."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def derived_seed(*parts: int | str) -> int:
    """Return the 63-bit seed of the stream that the parts name."""
    name = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1


@contextmanager
def global_generators_seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), NumPy and Python, from which the user's own code draws; restore them after the block."""
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
