"""An exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of the weights of `network` over its training steps; buffers are those of the last step.

    After step t the average is d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten
    (the schedule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay, self._steps = network, decay, 0
        self._average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        trained = {name for name, _ in self._network.named_parameters(remove_duplicate=False)}
        for name, tensor in self._network.state_dict().items():
            if name in trained:
                self._average[name].lerp_(tensor, 1 - decay)
            else:
                self._average[name].copy_(tensor)
        self._steps += 1

    def apply(self) -> None:
        """Give the network the average weights."""
        self._network.load_state_dict(self._average)

    def snapshot(self) -> dict[str, Tensor | int]:
        """Return all that `restore` needs, for a checkpoint."""
        return {"steps": self._steps, **{f"average.{name}": tensor for name, tensor in self._average.items()}}

    def restore(self, saved: Mapping[str, Tensor | int]) -> None:
        """Continue from a snapshot."""
        self._steps = int(saved["steps"])
        for name, tensor in self._average.items():
            value = saved[f"average.{name}"]
            assert isinstance(value, Tensor)
            tensor.copy_(value)
