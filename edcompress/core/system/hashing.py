"""One number for many tensors and words: equal where all bytes are. Imports torch where it is needed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def digest_of(parts: Iterable[Tensor | str], size: int) -> bytes:
    """`size` bytes (BLAKE2b) over texts, and over types, shapes and bytes of tensors, in this order."""
    import torch

    digest = hashlib.blake2b(digest_size=size)
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            flat = part.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{flat.dtype}{tuple(part.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.digest()


class Running:
    """The SHA-256 of tensors that come one after another: how they are cut into batches does not change it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, tensor: Tensor) -> None:
        """Go on with a tensor on the CPU."""
        self._digest.update(tensor.contiguous().numpy().data)

    @property
    def words(self) -> str:
        """The first 32 hex digits so far."""
        return self._digest.hexdigest()[:32]
