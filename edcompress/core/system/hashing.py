"""Digests over tensors and text, equal where all bytes are. torch is imported only when a digest is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def digest_of(parts: Iterable[Tensor | str], size: int) -> bytes:
    """Return the BLAKE2b digest, of `size` bytes, over texts and over types, shapes and bytes of tensors, in this order."""
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


class TensorDigest:
    """The SHA-256 of a sequence of tensors; how they are divided into batches does not change it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, tensor: Tensor) -> None:
        """Append a tensor on the CPU."""
        self._digest.update(tensor.contiguous().numpy().data)

    @property
    def hex(self) -> str:
        """The first 32 hex digits of the digest so far."""
        return self._digest.hexdigest()[:32]
