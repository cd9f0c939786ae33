"""Masks: a network under a state, with its weights as they are. They define a state, and surgery is proved against them.

A dropped channel is hidden where it is read: the input slices of every consumer are multiplied by zero. Everything between producer and
consumer (batch-norm bias, activation, depthwise filter) is hidden with it, so that the masked network equals the pruned one in eval mode.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from edcompress.pruning.space.gene_index import index_genes, pad_state
from edcompress.pruning.space.space import PruningSpace


def masked_weights(network: nn.Module, space: PruningSpace, state: Tensor) -> dict[str, Tensor]:
    """Return the consumer weights of `network` under state bool[D], by name; buffers that are weights are among them."""
    keep = pad_state(state)
    weights = dict(chain(network.named_parameters(remove_duplicate=False), network.named_buffers()))
    return {
        name: weights[name] * _along_inputs(keep[dims[1]], weights[name])
        for name, dims in index_genes(space, network).items()
        if 1 in dims
    }


def masked_forward(network: nn.Module, space: PruningSpace, state: Tensor, images: Tensor) -> Any:
    """Return what `network` gives under state bool[D] for `images` [N, C, H, W]."""
    return call_with(network, masked_weights(network, space, state), images)


def call_with(network: nn.Module, tensors: dict[str, Tensor], images: Tensor) -> Any:
    """Return what `network` gives for `images` [N, C, H, W] with these tensors in place of its own, which it has again afterwards.

    Each tensor is replaced under one name. A layer that is registered under two names is one object under both; if torch looked for other
    names of its tensors (`tie_weights`), it would put the replacement back in place of the original.
    """
    return functional_call(network, tensors, (images,), tie_weights=False)


def _along_inputs(kept: Tensor, weight: Tensor) -> Tensor:
    """Return `kept` bool[n] in the weight's type, device and shape [1, n, 1...]."""
    return kept.to(weight).view(1, -1, *[1] * (weight.dim() - 2))
