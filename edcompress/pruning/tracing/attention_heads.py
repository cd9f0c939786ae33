"""Groups of attention heads: the queries, keys and values of a head, and what the projection after it reads of them.

Tracing cannot find them, since the number of heads is in the code of the attention; known kinds are recognised by what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from edcompress.networks.load_pruned import SelfAttention, tensors_along
from edcompress.pruning.space.layers import is_fused_attention
from edcompress.pruning.space.space import Group, Member, TracedGroup

_READ_BY_HEADS = "is read by attention head by head"


def add_head_groups(found: Sequence[TracedGroup], network: nn.Module) -> list[TracedGroup]:
    """Return the traced groups with a group for each attention, whose channels are its heads; others at those positions are locked."""
    heads = list(_head_groups(network))
    claimed = {(member.layer, member.side) for group in heads for member in group.members}
    others: list[TracedGroup] = []
    for group, reason in found:
        members = tuple(member for member in group.members if (member.layer, member.side) not in claimed)
        met = len(members) < len(group.members)
        if members:
            name = group.name if not met else members[0].layer
            others.append(
                (
                    group.model_copy(update={"members": members, "name": name}),
                    reason or (_READ_BY_HEADS if met else None),
                )
            )
    return [*others, *((group, None) for group in heads)]


def _head_groups(network: nn.Module) -> Iterator[Group]:
    for name, layer in network.named_modules():
        if isinstance(layer, SelfAttention):
            yield _group(name, layer.num_heads, layer.head_dim, name, f"{name}.out_proj")
        elif is_fused_attention(layer):
            heads = layer.num_heads
            yield _group(name, heads, layer.head_dim, f"{name}.qkv", f"{name}.proj", *_per_head(name, layer, heads))


def _per_head(name: str, layer: nn.Module, heads: int) -> Iterator[Member]:
    """Yield what the attention itself holds for each head: temperatures [heads, ...] and tables of biases [positions, heads]."""
    yield Member(layer=name, side="out", positions=_upto(heads), channels=_upto(heads))
    if any(True for _ in tensors_along(layer, 1, heads)):
        yield Member(layer=name, side="in", positions=_upto(heads), channels=_upto(heads))


def _group(name: str, heads: int, head_dim: int, packed: str, after: str, *own: Member) -> Group:
    width = heads * head_dim
    inputs, outputs = _upto(3 * width), _upto(width)
    members = (
        *own,
        Member(layer=packed, side="out", positions=inputs, channels=tuple(row % width // head_dim for row in inputs)),
        Member(layer=after, side="in", positions=outputs, channels=tuple(row // head_dim for row in outputs)),
    )
    return Group(name=name, channels=heads, members=members, block=head_dim)


def _upto(n: int) -> tuple[int, ...]:
    return tuple(range(n))
