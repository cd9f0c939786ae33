"""Training through torch.compile, of a network that keeps its shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edcompress.core.errors import first_line
from edcompress.networks.outputs import joined
from edcompress.training.precision import Precision
from edcompress.training.regime import DenseRegime


class Compiled(DenseRegime):
    """The network as torch.compile makes it; in eval mode, and if it cannot be compiled, the network itself.

    Weights and their names stay the network's. Each shape of a batch is compiled and tried before its first step, which finds weights,
    statistics and random generators unchanged; `warn` is called once with what fails there.
    """

    def __init__(
        self,
        network: nn.Module,
        precision: Precision,
        warn: Callable[[str], None],
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        super().__init__(network)
        self._network, self._precision, self._warn = network, precision, warn
        torch._dynamo.reset()  # otherwise, after some networks of one class in a process, it silently stops compiling
        self._compiled: Callable[[Tensor], Any] | None = torch.compile(network, dynamic=False, backend=backend)
        self._tried: set[torch.Size] = set()
        self.forward = self._through

    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None:  # noqa: ARG002
        """Compile for the shape of the images [N, C, H, W], unless that has been done."""
        if self._compiled is not None and images.shape not in self._tried:
            self._tried.add(images.shape)
            self._try(self._compiled, images)

    def _through(self, images: Tensor) -> Any:
        if self._compiled is not None and self._network.training:
            return self._compiled(images)
        return self._network(images)

    def _try(self, compiled: Callable[[Tensor], Any], images: Tensor) -> None:
        """Run forward and backward: the latter may be compiled when it is first run."""
        device = self._precision.device
        before = [buffer.clone() for buffer in self._network.buffers()]
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                with self._precision.autocast():
                    output = compiled(images)
                joined(output).float().sum().backward()  # type: ignore[no-untyped-call]
        except (
            Exception
        ) as error:  # any layer of the compiler raises any kind; the network's own error returns without it
            self._compiled = None
            self._warn(f"compile: torch.compile fails here, training goes on without ({_reason(error)})")
        finally:
            self._network.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, value in zip(self._network.buffers(), before, strict=True):
                    buffer.copy_(value)


def _reason(error: Exception) -> str:
    """Return the error in one line; dynamo wraps what a backend raises."""
    inner = getattr(error, "inner_exception", error)
    return f"{type(inner).__name__}: {first_line(inner)}"
