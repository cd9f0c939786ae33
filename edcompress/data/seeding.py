"""Named streams of random numbers: streams with different names are independent of each other."""

from __future__ import annotations

import hashlib

import torch


def generator_for(*parts: int | str) -> torch.Generator:
    """Return a new generator at the start of the stream that the parts name, such as (seed, "order", epoch)."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def derived_seed(*parts: int | str) -> int:
    """Return the 63-bit seed of the stream that the parts name."""
    name = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1
