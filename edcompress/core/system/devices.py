"""Pick a device, and report exhausted memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edcompress.core.errors import EdcompressError, InputError, first_line
from edcompress.core.recipe.data import Data


def pick_device(name: str) -> torch.device:
    """Return the device `auto`, `cpu` or `cuda`; raise InputError if there is none."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def oom_as_error(data: Data, fix: str) -> Iterator[None]:
    """Re-raise an out-of-memory error as an EdcompressError that names the batch sizes and the fix."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise EdcompressError(
            f"the device is out of memory with data.batch_size {data.batch_size} and data.eval_batch_size {data.eval_batch_size}: "
            f"{first_line(error)}; {fix}"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is about exhausted memory: torch has no class of its own for the memory of the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
