"""Self-attention whose heads can be removed, in place of torch's, which ties the heads' width to the embedding's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of one input, batch first, with the same parameters under the same names.

    in_proj_weight [3 x heads x head_dim, embedding] holds queries, keys and values, each head by head. `num_heads` is read at every call,
    so that fewer rows and fewer heads go together.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = attention.num_heads, attention.head_dim, attention.dropout
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        """The attended tokens [B, N, embedding] of tokens [B, N, embedding], and no weights."""
        if key is not query or value is not query or need_weights:
            raise NotImplementedError("only self-attention without its weights")
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.view(*query.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def with_free_heads(network: nn.Module) -> nn.Module:
    """The network itself, with SelfAttention wherever it has a torch attention that packs its projections, batch first."""
    for name, layer in list(network.named_modules()):
        plain = isinstance(layer, nn.MultiheadAttention) and layer.bias_k is None and not layer.add_zero_attn
        if plain and layer.batch_first and layer.in_proj_weight is not None:
            network.set_submodule(name, SelfAttention(layer))
    return network
