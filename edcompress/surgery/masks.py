"""Masks: a network under a state, without touching its weights.

A dropped channel is hidden where it is read: the input slices of every consumer are multiplied by zero. Whatever stands between
producer and consumer (batch-norm bias, activation, depthwise filter) is hidden with it, so the masked network equals the pruned one
in eval mode, and no gradient reaches a dropped channel. Convolutions have their weights masked, not their images: cheaper, and
nothing is copied back. Linear layers, whose weights are many and whose inputs are few, have their inputs masked: the same products.
Only what a state drops something of is masked at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edcompress.surgery.space import Space

Kept = dict[str, dict[int, Tensor]]
"""For each parameter and each of its dimensions that loses something: 1 where a position is kept, 0 where it is dropped, float[n]."""


class Masks:
    """Where each gene of a space sits in the parameters of one network; built once, on the network's device."""

    def __init__(self, space: Space, network: nn.Module) -> None:
        self._device = next(network.parameters()).device
        self._parameters = dict(network.named_parameters(remove_duplicate=False))
        index = _gene_index(space, network)
        self._places = [(name, dim) for name, dims in index.items() for dim in dims]
        genes = [index[name][dim] for name, dim in self._places]
        self._sizes = [len(part) for part in genes]
        self._genes = torch.cat(genes) if genes else torch.zeros(0, dtype=torch.int64)
        self._place_of = torch.repeat_interleave(torch.arange(len(genes)), torch.tensor(self._sizes, dtype=torch.int64))
        self._linears = _linears(network, {name for name, dim in self._places if dim == 1})
        self._last: tuple[Tensor, Kept] | None = None
        self._before: dict[str, Tensor] = {}

    def weights(self, state: Tensor) -> dict[str, Tensor]:
        """The masked consumer weights of a state bool[D], by parameter name; gradients flow to the kept weights alone.

        A consumer of which the state keeps every input is left out.
        """
        kept = self._kept(state)
        return {name: self._masked(name, dims[1]) for name, dims in kept.items() if 1 in dims}

    @contextmanager
    def reading(self, state: Tensor) -> Iterator[dict[str, Tensor]]:
        """Inside, linear layers read their inputs masked; gives the masked weights of the other consumers, by parameter name."""
        kept = {name: dims[1] for name, dims in self._kept(state).items() if 1 in dims}
        with ExitStack() as hooks:
            for name in kept.keys() & self._linears.keys():
                hook = self._linears[name].register_forward_pre_hook(_input_times(kept[name]), with_kwargs=True)
                hooks.callback(hook.remove)
            yield {name: self._masked(name, mask) for name, mask in kept.items() if name not in self._linears}

    @contextmanager
    def frozen(self, state: Tensor) -> Iterator[None]:
        """What happens inside leaves every weight of a dropped channel at its value, whatever the optimizer does to it."""
        kept = self._kept(state)
        with torch.no_grad():
            for name in kept:
                parameter = self._parameters[name]
                self._before.setdefault(name, torch.empty_like(parameter)).copy_(parameter)
        yield
        with torch.no_grad():
            for name, dims in kept.items():
                parameter = self._parameters[name]
                for dim, mask in dims.items():  # exact, since every mask is 0 or 1
                    parameter.lerp_(self._before[name], _along(1 - mask, dim, parameter))

    def _masked(self, name: str, mask: Tensor) -> Tensor:
        return self._parameters[name] * _along(mask, 1, self._parameters[name])

    def _kept(self, state: Tensor) -> Kept:
        """The masks of a state; those of the last one are remembered, for it is trained for many steps."""
        if self._last is None or not torch.equal(self._last[0], state):
            self._last = (state.clone(), self._gathered(state))
        return self._last[1]

    def _gathered(self, state: Tensor) -> Kept:
        flags = torch.cat([state, state.new_ones(1)])[self._genes]  # the last element: positions that belong to no gene
        lost = torch.zeros(len(self._places), dtype=torch.int64).index_add_(0, self._place_of, (~flags).long()).tolist()
        parts = torch.split(flags.to(self._device, torch.float32), self._sizes)
        kept: Kept = {}
        for (name, dim), mask, count in zip(self._places, parts, lost, strict=True):
            if count:
                kept.setdefault(name, {})[dim] = mask.to(self._parameters[name].dtype)
        return kept


def masked_call(network: nn.Module, masks: Masks, state: Tensor, images: Tensor) -> Tensor:
    """Logits [N, classes] of `network` under `state` bool[D] for `images` [N, C, H, W]."""
    with masks.reading(state) as weights:
        logits = functional_call(network, weights, (images,))
    assert isinstance(logits, Tensor)
    return logits


def _linears(network: nn.Module, consumers: set[str]) -> dict[str, nn.Module]:
    """The linear layers among the consumers, by the name of their weight; a weight that several layers share is none of them."""
    layers = list(network.named_modules(remove_duplicate=False))
    uses = Counter(id(parameter) for _, layer in layers for parameter in layer.parameters(recurse=False))
    return {
        f"{name}.weight": layer
        for name, layer in layers
        if type(layer) is nn.Linear and f"{name}.weight" in consumers and uses[id(layer.weight)] == 1
    }


def _input_times(mask: Tensor) -> Any:
    """A forward pre-hook that multiplies the last dimension of a linear layer's input [..., n] by a mask float[n]."""

    def hook(
        _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        values = [*args, *kwargs.values()][0]
        return (values * mask.to(values.dtype),), {}

    return hook


def _along(values: Tensor, dim: int, like: Tensor) -> Tensor:
    """`values` [n] shaped to broadcast along dimension `dim` of `like`."""
    shape = [1] * like.dim()
    shape[dim] = -1
    return values.view(shape)


def _gene_index(space: Space, network: nn.Module) -> dict[str, dict[int, Tensor]]:
    """For each parameter and each of its dimensions the gene of every position; D where a position belongs to none."""
    layers = dict(network.named_modules())
    index: dict[str, dict[int, Tensor]] = {}
    for group, part in space.slices():
        for member in group.members:
            for name, parameter in layers[member.layer].named_parameters(recurse=False):
                dim = 0 if member.side == "out" else 1
                if dim >= parameter.dim() or (parameter.dim() == 1 and parameter.numel() == 1):
                    continue
                dims = index.setdefault(f"{member.layer}.{name}", {})
                genes = dims.setdefault(dim, torch.full((parameter.shape[dim],), space.genes))
                genes[list(member.positions)] = torch.tensor(member.channels) + part.start
    return index
