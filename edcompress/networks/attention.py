"""Replace torch's attentions by SelfAttention, whose heads can be removed, where that leaves a network's logits unchanged."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edcompress.networks.load_pruned import SelfAttention
from edcompress.networks.modes import evaluating
from edcompress.networks.outputs import joined
from edcompress.networks.replacements import as_replacement


def with_free_heads(network: nn.Module, names: list[str] | None = None) -> nn.Module:
    """Replace torch's attentions by SelfAttention, in place, where they pack their projections, batch first.

    Args:
        network: The network to change.
        names: The attentions to replace; all where it is None.

    Returns:
        The network itself.
    """
    replaced = {
        layer: as_replacement(SelfAttention(layer)).train(layer.training)
        for name, layer in network.named_modules()
        if type(layer) is nn.MultiheadAttention and _packs(layer) and (names is None or name in names)
    }
    for name, layer in list(network.named_modules(remove_duplicate=False)):
        if layer in replaced:
            network.set_submodule(name, replaced[layer])
    return network


def _packs(attention: nn.MultiheadAttention) -> bool:
    plain = attention.bias_k is None and not attention.add_zero_attn
    return plain and attention.batch_first and attention.in_proj_weight is not None


@torch.no_grad()
def free_heads(network: nn.Module, images: Tensor) -> nn.Module:
    """Replace torch's attentions by SelfAttention, in place, where that leaves the logits for images [N, C, H, W] unchanged.

    Returns:
        The network itself.
    """
    attentions = [name for name, layer in network.named_modules() if isinstance(layer, nn.MultiheadAttention)]
    if not attentions:
        return network
    with evaluating(network):
        logits = joined(network(images))

    def alike(names: list[str]) -> bool:
        try:
            found = joined(with_free_heads(copy.deepcopy(network).eval(), names)(images))
        except Exception:  # foreign code may do anything with another attention
            return False
        return torch.allclose(found, logits, rtol=1e-4, atol=1e-5)

    names = attentions if alike(attentions) else [name for name in attentions if alike([name])]
    return with_free_heads(network, names)
