"""Tensors on their way to the device that computes, and figures on their way back, without either waiting for the other."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a CUDA device fetches it on a stream of its own while it computes, out of pinned memory."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    using, fetching = torch.cuda.current_stream(device), _fetching(device)
    with torch.cuda.stream(fetching):
        moved = tensor.pin_memory().to(device, non_blocking=True)
    using.wait_stream(fetching)
    moved.record_stream(using)  # else its memory were given away before it is used
    return moved


class DelayedReadback:
    """What a device says at every step, heard one step late where it is a CUDA device: nobody has to wait for the step that runs.

    So the process is one step ahead of the device, and no more. The first step alone is waited for.
    """

    def __init__(self) -> None:
        self._last: _Said | None = None

    def of(self, figures: Tensor) -> list[float]:
        """The `figures` [n] of this step on the CPU, of the step before on a CUDA device (of the first: its own)."""
        if figures.device.type != "cuda":
            return list(map(float, figures.tolist()))
        before, self._last = self._last, _Said(figures)
        return (before or self._last).figures()


class _Said:
    """Figures [n] of a CUDA device that are copied once it has come to them."""

    def __init__(self, figures: Tensor) -> None:
        self._host = figures.to("cpu", non_blocking=True)  # pinned
        self._there = torch.cuda.current_stream(figures.device).record_event()

    def figures(self) -> list[float]:
        self._there.synchronize()
        return list(map(float, self._host.tolist()))


@cache
def _fetching(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
