"""A device without enough memory."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import ONE_EPOCH, digits, pruned

from edcompress.core.errors import EdcompressError, NetworkError
from edcompress.core.system.devices import oom_as_error
from edcompress.core.system.monitor import NullMonitor
from edcompress.networks.build import new_network
from edcompress.networks.safe_pickles import bounded_memory


class Full(NullMonitor):
    """Raises what torch raises where an allocation on a device fails, after the third step of the search."""

    def __init__(self) -> None:
        self._searching = False

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:  # noqa: ARG002
        self._searching = phase == "search"

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:  # noqa: ARG002
        if self._searching and step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1.00 GiB")


def test_too_little_memory_is_told_with_a_smaller_batch(dense: Path, tmp_path: Path) -> None:
    message = r"out of memory with data.batch_size 32 .*Tried to allocate 2.00 GiB.; .*--force --set data.batch_size=16"
    with pytest.raises(EdcompressError, match=message) as caught:
        pruned(dense, tmp_path / "full", digits(*ONE_EPOCH), Full())
    assert caught.value.exit_code == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count no memory")
def test_too_little_memory_of_the_cpu_is_told_too() -> None:
    vast = digits("model.arch=vgg11", "model.num_classes=1000000")  # 16 GB, more than earlier tests can have freed
    with (
        pytest.raises(
            NetworkError,
            match=r"vgg11 with model.num_classes 1000000 .* takes more memory than there is: .*fewer classes",
        ),
        bounded_memory(50_000_000),
    ):
        new_network(vast.network_spec)
    for take in (lambda: torch.empty(1 << 30), lambda: bytearray(1 << 32)):
        with (
            pytest.raises(EdcompressError, match=r"out of memory with data.batch_size 64 .*; lower it") as caught,
            oom_as_error(digits().data, "lower it"),
            bounded_memory(50_000_000),
        ):
            take()
        assert caught.value.exit_code == 3
    with pytest.raises(RuntimeError, match="another"), oom_as_error(vast.data, ""):
        raise RuntimeError("another")
