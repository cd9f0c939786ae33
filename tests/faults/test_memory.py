"""A device without enough memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from digits import ONE_EPOCH, digits, pruned

from edcompress.errors import EdcompressError
from edcompress.monitor import Silent


class Full(Silent):
    """Raises what torch raises where an allocation on a device fails, after the third step of the search."""

    def __init__(self) -> None:
        self._searching = False

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:  # noqa: ARG002
        self._searching = phase == "search"

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:  # noqa: ARG002
        if self._searching and step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1.00 GiB")


def test_too_little_memory_is_told_with_a_smaller_batch(dense: Path, tmp_path: Path) -> None:
    message = r"out of memory with data.batch_size 64 .*Tried to allocate 2.00 GiB.; .*--force --set data.batch_size=32"
    with pytest.raises(EdcompressError, match=message) as caught:
        pruned(dense, tmp_path / "full", digits(*ONE_EPOCH), Full())
    assert caught.value.exit_code == 3
