"""Self-attention whose heads can be removed; torch's own ties the heads' width to that of the embedding."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edcompress.networks.modes import evaluating


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of one input, batch first, with the same parameters under the same names.

    in_proj_weight [3 x heads x head_dim, embedding] holds queries, keys and values, each head by head. `num_heads` is read at every call,
    so that rows and heads can be removed together.
    """

    batch_first = False  # keeps torch's encoder off its fused path, which reads the tensors without calling this layer

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = attention.num_heads, attention.head_dim, attention.dropout
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor | None]:
        """Return attended tokens [B, N, embedding] of tokens [B, N, embedding], and weights [B, N, N] where they are needed."""
        if key is not query or value is not query or key_padding_mask is not None:
            raise NotImplementedError("only self-attention without padding")
        if query.dim() != 3 or (attn_mask is not None and attn_mask.dim() != 2):
            raise NotImplementedError("only batches of tokens, and one mask [N, N] for all")
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.view(*query.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        dropout, bias = self.dropout if self.training else 0.0, _bias(attn_mask, q)
        if not need_weights:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
            return self.out_proj(attended.transpose(1, 2).flatten(2)), None
        scores = q @ k.transpose(-1, -2) / self.head_dim**0.5
        weights = F.dropout((scores if bias is None else scores + bias).softmax(-1), dropout)
        attended = (weights @ v).transpose(1, 2).flatten(2)
        return self.out_proj(attended), weights.mean(1) if average_attn_weights else weights


def _bias(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the term added to the scores for torch's `mask`, in which True excludes a token."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return like.new_zeros(mask.shape).masked_fill(mask, -torch.inf)


def with_free_heads(network: nn.Module, names: list[str] | None = None) -> nn.Module:
    """Replace torch's attentions by SelfAttention, in place, where they pack their projections, batch first.

    Args:
        network: The network to change.
        names: The attentions to replace; all where it is None.

    Returns:
        The network itself.
    """
    replaced = {
        layer: SelfAttention(layer).train(layer.training)
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
        logits = network(images)

    def alike(names: list[str]) -> bool:
        try:
            found = with_free_heads(copy.deepcopy(network).eval(), names)(images)
        except Exception:  # foreign code may do anything with another attention
            return False
        return torch.allclose(found, logits, rtol=1e-4, atol=1e-5)

    names = attentions if alike(attentions) else [name for name in attentions if alike([name])]
    return with_free_heads(network, names)
