"""Pick a device, and report when its memory is exhausted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edcompress.core.errors import EdcompressError, InputError, first_line
from edcompress.core.recipe.recipe import Recipe


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`; InputError where there is none."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def oom_as_error(recipe: Recipe, way_out: str) -> Iterator[None]:
    """A block whose end for want of the device's memory is an EdcompressError that names what it was asked to hold, and the way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        data = recipe.data
        raise EdcompressError(
            f"the device is out of memory with data.batch_size {data.batch_size} and data.eval_batch_size {data.eval_batch_size}: "
            f"{first_line(error)}; {way_out}"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was asked for that there is not: torch has no class of its own for that of the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
