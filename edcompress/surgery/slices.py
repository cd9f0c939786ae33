"""Slices: a network runs as small as a state makes it, while its dense weights stay.

For a call, every weight and batch-norm statistic is replaced by the part that the state keeps, and every layer is told its smaller
widths: what runs is the pruned network, at the pruned network's cost. Gradients reach the kept part of the dense weights alone, and
the statistics of kept channels are written back.

Linear layers with millions of weights are the exception: cutting such a weight takes longer than multiplying all of it by a batch. They
run whole, on inputs that are zero where a channel is dropped, and their dropped outputs are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edcompress.surgery.genes import gene_index, padded
from edcompress.surgery.space import Space

_WIDTHS = {
    0: ("out_channels", "out_features", "num_features", "num_parameters"),
    1: ("in_channels", "in_features"),
}
"""What layers call the number of positions along each dimension of their weight."""

_MANY_WEIGHTS = 1 << 22


@dataclass(frozen=True)
class _Part:
    """One tensor, and the positions int64[n] that a state keeps and drops along each dimension where it drops some."""

    tensor: Tensor
    kept: dict[int, Tensor]
    dropped: dict[int, Tensor]

    def cut(self) -> Tensor:
        """The kept part, through which gradients flow."""
        part = self.tensor
        for dim, positions in self.kept.items():
            part = part.index_select(dim, positions)
        return part


@dataclass(frozen=True)
class _Cut:
    """What a state makes of a network: the tensors that lose something, and the widths (layer, attribute, value) that change.

    `whole` holds the layers that run whole, with the part of their weight that counts.
    """

    state: Tensor
    parts: dict[str, _Part]
    widths: list[tuple[nn.Module, str, int]]
    whole: dict[nn.Linear, _Part]


class Slices:
    """A network and where the genes of its space sit; built once, on the network's device."""

    def __init__(self, space: Space, network: nn.Module) -> None:
        index = gene_index(space, network)
        self._network, self._layers = network, dict(network.named_modules())
        self._places = [(name, dim) for name, dims in index.items() for dim in dims]
        genes = [index[name][dim] for name, dim in self._places]
        self._genes = torch.cat([*genes, torch.zeros(0, dtype=torch.int64)])
        self._place = torch.repeat_interleave(
            torch.arange(len(genes)), torch.tensor([len(part) for part in genes]).long()
        )
        self._position = torch.cat([torch.arange(len(part)) for part in genes] or [self._genes])
        self._device = next(network.parameters()).device
        self._large = _large_linears(network)
        self._last: _Cut | None = None

    def call(self, state: Tensor, images: Tensor) -> Tensor:
        """Logits [N, classes] of the network under state bool[D] for images [N, C, H, W]."""
        cut = self._cut(state)
        tensors = {name: part.cut() for name, part in cut.parts.items() if name.rpartition(".")[0] not in self._large}
        with _narrowed(cut.widths), _running_whole(cut.whole):
            logits = functional_call(self._network, tensors, (images,))
        with torch.no_grad():
            for name, part in cut.parts.items():
                if not isinstance(part.tensor, nn.Parameter) and part.tensor.dim() == 1:
                    part.tensor.index_copy_(0, part.kept[0], tensors[name])
        assert isinstance(logits, Tensor)
        return logits

    @contextmanager
    def frozen(self, state: Tensor) -> Iterator[None]:
        """What happens inside leaves every weight of a dropped channel at its value, whatever the optimizer does to it."""
        parts = self._cut(state).parts.values()
        with torch.no_grad():
            lost = [(part.tensor, dim, where) for part in parts for dim, where in part.dropped.items()]
            before = [tensor.index_select(dim, where) for tensor, dim, where in lost]
            yield
            for (tensor, dim, where), values in zip(lost, before, strict=True):
                tensor.index_copy_(dim, where, values)

    def _cut(self, state: Tensor) -> _Cut:
        """That of the last state is remembered, for it is trained for many steps."""
        if self._last is None or not torch.equal(self._last.state, state):
            parts = self._parts(padded(state))
            large = {layer: parts.get(f"{name}.weight") for name, layer in self._large.items()}
            whole = {layer: part for layer, part in large.items() if part is not None}
            self._last = _Cut(state.clone(), parts, list(self._widths(parts)), whole)
        return self._last

    def _parts(self, keep: Tensor) -> dict[str, _Part]:
        flags = keep[self._genes]
        parts: dict[str, _Part] = {}
        for (name, dim), kept, dropped in zip(self._places, self._where(flags), self._where(~flags), strict=True):
            if len(dropped):
                part = parts.setdefault(name, _Part(self._tensor(name), {}, {}))
                part.kept[dim], part.dropped[dim] = kept, dropped
        return parts

    def _where(self, flags: Tensor) -> tuple[Tensor, ...]:
        """For each place the positions int64[n] with a flag; they go to the device in one piece."""
        counts = torch.bincount(self._place[flags], minlength=len(self._places))
        return torch.split(self._position[flags].to(self._device), counts.tolist())

    def _tensor(self, name: str) -> Tensor:
        layer, _, tensor = name.rpartition(".")
        found = getattr(self._layers[layer], tensor)
        assert isinstance(found, Tensor)
        return found

    def _widths(self, parts: dict[str, _Part]) -> Iterator[tuple[nn.Module, str, int]]:
        for name, part in parts.items():
            layer = self._layers[name.rpartition(".")[0]]
            depthwise = getattr(layer, "groups", 1) > 1
            for dim, positions in part.kept.items():
                for attribute in (*_WIDTHS[0], *_WIDTHS[1], "groups") if depthwise else _WIDTHS[dim]:
                    if hasattr(layer, attribute):
                        yield layer, attribute, len(positions)


def _large_linears(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers with many weights, by name; but not those that share them."""
    layers = list(network.named_modules(remove_duplicate=False))
    uses = Counter(id(parameter) for _, layer in layers for parameter in layer.parameters(recurse=False))
    return {
        name: layer
        for name, layer in layers
        if type(layer) is nn.Linear and layer.weight.numel() >= _MANY_WEIGHTS and uses[id(layer.weight)] == 1
    }


@contextmanager
def _running_whole(layers: dict[nn.Linear, _Part]) -> Iterator[None]:
    """Inside, these layers take the inputs [..., kept] and give the outputs [..., kept] of their part, and compute with all weights."""

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
def _narrowed(widths: list[tuple[nn.Module, str, int]]) -> Iterator[None]:
    """Inside, the layers' own accounts of their widths are these."""
    before = [(layer, attribute, getattr(layer, attribute)) for layer, attribute, _ in widths]
    try:
        for layer, attribute, value in widths:
            setattr(layer, attribute, value)
        yield
    finally:
        for layer, attribute, value in before:
            setattr(layer, attribute, value)
