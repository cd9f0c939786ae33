"""Named random streams."""

from __future__ import annotations

import hashlib

import torch


def generator_for(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(*parts))


def derived_seed(*parts: int | str) -> int:
    """A 63-bit number for a stream of random numbers; streams with different names have nothing in common."""
    name = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1
