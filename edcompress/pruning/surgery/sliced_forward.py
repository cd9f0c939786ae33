"""The sliced forward pass: a network runs as small as a state makes it, while its dense weights stay.

For a call, every weight and batch-norm statistic is replaced by the part that the state keeps, and every layer gets its smaller widths:
what runs is the pruned network, at the cost of the pruned network. Gradients reach only the kept part of the dense weights, and the
statistics of kept channels are written back.

Linear layers with millions of weights are the exception: cutting such a weight takes longer than multiplying all of it by a batch. They
run whole, on inputs that are zero where a channel is dropped, and their dropped outputs are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.cut import StateCut, StateCutter, TensorCut
from edcompress.pruning.surgery.masks import call_with

_MANY_WEIGHTS = 1 << 22


class SlicedNetwork:
    """A network that can run at the size of any state of its space; built once, on the network's device."""

    def __init__(self, space: PruningSpace, network: nn.Module) -> None:
        self.network, self._cutter = network, StateCutter(space, network)
        self._large = _large_linears(network)
        self._last: tuple[Tensor, StateCut] | None = None

    def call(self, state: Tensor, images: Tensor) -> Any:
        """Return what the network gives under state bool[D] for images [N, C, H, W]."""
        cut = self._cut(state)
        tensors = {name: part.cut() for name, part in cut.parts.items() if name.rpartition(".")[0] not in self._large}
        with _with_widths(cut.widths), _running_whole(self._whole(cut)):
            output = call_with(self.network, tensors, images)
        with torch.no_grad():
            for name, part in cut.parts.items():
                if not isinstance(part.tensor, nn.Parameter) and part.tensor.dim() == 1:
                    part.tensor.index_copy_(0, part.kept[0], tensors[name])
        return output

    @contextmanager
    def frozen(self, state: Tensor) -> Iterator[None]:
        """Restore the values of all weights of dropped channels after the block, whatever the optimizer did to them."""
        parts = self._cut(state).parts.values()
        with torch.no_grad():
            dropped = [(part.tensor, dim, where) for part in parts for dim, where in part.dropped.items()]
            before = [tensor.index_select(dim, where) for tensor, dim, where in dropped]
            yield
            for (tensor, dim, where), values in zip(dropped, before, strict=True):
                tensor.index_copy_(dim, where, values)

    def _cut(self, state: Tensor) -> StateCut:
        """Return the cut of a state; the last one is kept, since a state is trained for many steps."""
        if self._last is None or not torch.equal(self._last[0], state):
            self._last = (state.clone(), self._cutter.cut(state))
        return self._last[1]

    def _whole(self, cut: StateCut) -> dict[nn.Linear, TensorCut]:
        """Return the layers that run whole, with the cut of their weight."""
        parts = ((layer, cut.parts.get(f"{name}.weight")) for name, layer in self._large.items())
        return {layer: part for layer, part in parts if part is not None}


def _large_linears(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers with many weights of their own, by name."""
    layers = list(network.named_modules(remove_duplicate=False))
    uses = Counter(id(parameter) for _, layer in layers for parameter in layer.parameters(recurse=False))
    return {
        name: layer
        for name, layer in layers
        if type(layer) is nn.Linear and layer.weight.numel() >= _MANY_WEIGHTS and uses[id(layer.weight)] == 1
    }


@contextmanager
def _running_whole(layers: dict[nn.Linear, TensorCut]) -> Iterator[None]:
    """Let these layers take inputs [..., kept] and give outputs [..., kept] of their cut, computing with all their weights."""

    def spread(layer: nn.Linear, args: tuple[Tensor]) -> Tensor | None:
        part = layers[layer]
        if 1 not in part.kept:
            return None
        (values,) = args
        zeros = values.new_zeros(*values.shape[:-1], part.tensor.shape[1])
        return zeros.index_copy(-1, part.kept[1], values)

    def narrow(layer: nn.Linear, _: object, output: Tensor) -> Tensor:
        part = layers[layer]
        return output.index_select(-1, part.kept[0]) if 0 in part.kept else output

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(spread).remove)
            hooks.callback(layer.register_forward_hook(narrow).remove)
        yield


@contextmanager
def _with_widths(widths: list[tuple[nn.Module, str, int]]) -> Iterator[None]:
    """Set the layers' own records of their widths for the block."""
    before = [(layer, attribute, getattr(layer, attribute)) for layer, attribute, _ in widths]
    try:
        for layer, attribute, value in widths:
            setattr(layer, attribute, value)
        yield
    finally:
        for layer, attribute, value in before:
            setattr(layer, attribute, value)
