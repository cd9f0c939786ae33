"""Masks: a network under a state, without touching its weights. They define what a state means, and what surgery is held to.

A dropped channel is hidden where it is read: the input slices of every consumer are multiplied by zero. Whatever stands between
producer and consumer (batch-norm bias, activation, depthwise filter) is hidden with it, so the masked network equals the pruned one
in eval mode.
"""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn
from torch.func import functional_call

from edcompress.pruning.space.gene_index import gene_index, padded
from edcompress.pruning.space.space import PruningSpace


def masked_weights(network: nn.Module, space: PruningSpace, state: Tensor) -> dict[str, Tensor]:
    """The consumer weights of `network` under state bool[D], by name; fixed ones (buffers) are among them."""
    keep = padded(state)
    weights = dict(chain(network.named_parameters(remove_duplicate=False), network.named_buffers()))
    return {
        name: weights[name] * _along_inputs(keep[dims[1]], weights[name])
        for name, dims in gene_index(space, network).items()
        if 1 in dims
    }


def masked_forward(network: nn.Module, space: PruningSpace, state: Tensor, images: Tensor) -> Tensor:
    """Logits [N, classes] of `network` under state bool[D] for `images` [N, C, H, W]."""
    return called_with(network, masked_weights(network, space, state), images)


def called_with(network: nn.Module, tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    """What `network` gives for `images` [N, C, H, W] with these tensors in the place of its own; afterwards it has its own again.

    Tensors are known by one name each. A layer that is registered under two is the same object under both; torch would put the
    replacement back for the original there, if it were left to look for other names (`tie_weights`).
    """
    return functional_call(network, tensors, (images,), tie_weights=False)  # type: ignore[no-any-return]


def _along_inputs(kept: Tensor, weight: Tensor) -> Tensor:
    """`kept` bool[n] in the weight's type, device and shape [1, n, 1...]."""
    return kept.to(weight).view(1, -1, *[1] * (weight.dim() - 2))
