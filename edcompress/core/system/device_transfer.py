"""Overlapped copies to and from a CUDA device: neither it nor the CPU waits for them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; a CUDA device copies it from pinned memory on a separate stream, while it computes."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    using, copying = torch.cuda.current_stream(device), _copy_stream(device)
    with torch.cuda.stream(copying):
        moved = tensor.pin_memory().to(device, non_blocking=True)
    using.wait_stream(copying)
    moved.record_stream(using)  # otherwise its memory could be reused before it is read
    return moved


class DelayedReadback:
    """Figures of each training step, read one step late from a CUDA device, so that the CPU need not wait for the running step.

    The CPU is then one step ahead of the device, and never more. Only the first step is waited for.
    """

    def __init__(self) -> None:
        self._last: _Pending | None = None

    def read(self, figures: Tensor) -> list[float]:
        """Return the figures [n] of this step on the CPU, or of the previous step on a CUDA device (of the first step: its own)."""
        if figures.device.type != "cuda":
            return list(map(float, figures.tolist()))
        previous, self._last = self._last, _Pending(figures)
        return (previous or self._last).wait()


class _Pending:
    """Figures [n] on their way from a CUDA device."""

    def __init__(self, figures: Tensor) -> None:
        self._host = figures.to("cpu", non_blocking=True)  # pinned
        self._arrived = torch.cuda.current_stream(figures.device).record_event()

    def wait(self) -> list[float]:
        """Return the figures once they are computed and copied."""
        self._arrived.synchronize()
        return list(map(float, self._host.tolist()))


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
