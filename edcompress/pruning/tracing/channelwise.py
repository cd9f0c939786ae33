"""Layers of other authors that work channel by channel, with own values for each: frozen batch norms, blur filters, scales.

They are recognised by trying: cut to some of its channels, such a layer gives for these channels what the whole one does.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edcompress.networks.load_pruned import cut_side
from edcompress.networks.modes import evaluating
from edcompress.pruning.space.layers import own_width

Calls = dict[nn.Module, list[tuple[Tensor, Tensor] | None]]
"""The input and output of layers, once for each call; None where either was not a single tensor."""


def channelwise_kinds(network: nn.Module, inputs: Sequence[Tensor]) -> set[type[nn.Module]]:
    """Return the classes of which every layer in the network, run on `inputs` [N, ...], works channel by channel and can be cut."""
    layers = [layer for layer in network.modules() if own_width(layer)]
    calls = _calls(network, layers, inputs) if layers else {}
    good = {layer for layer in layers if all(call and _is_channelwise(layer, *call) for call in calls.get(layer, []))}
    return {
        kind
        for kind in {type(layer) for layer in layers}
        if all(type(other) is kind and other in good for other in network.modules() if isinstance(other, kind))
    }


def _calls(network: nn.Module, layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> Calls:
    calls: Calls = defaultdict(list)

    def note(layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        given = args[0] if len(args) == 1 and not kwargs else None
        if isinstance(given, Tensor) and isinstance(output, Tensor):
            calls[layer].append((given.clone(), output.clone()))
        else:
            calls[layer].append(None)

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        with evaluating(network), torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


@torch.no_grad()
def _is_channelwise(layer: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Return whether the layer, without every second channel, gives the other channels of `y` for those of `x`, along some dimension."""
    width = own_width(layer)
    keep = torch.arange(width) % 2 == 0
    smaller, kept = copy.deepcopy(layer).eval(), keep.nonzero().flatten().to(x.device)
    cut_side(smaller, 0, keep)
    for dim in range(1, x.dim()):
        if dim < y.dim() and x.shape[dim] == y.shape[dim] == width:
            try:
                found, expected = smaller(x.index_select(dim, kept)), y.index_select(dim, kept)
            except Exception:  # of any kind: the layer's code cannot run with fewer channels
                continue
            if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
                return True
    return False
