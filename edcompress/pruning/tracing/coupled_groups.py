"""Groups of coupled channels, followed through a dependency graph from each layer that makes channels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from edcompress.core.errors import NetworkError
from edcompress.pruning.space.layers import CONVS, is_depthwise, layer_width
from edcompress.pruning.space.space import Group, Member, TracedGroup
from edcompress.pruning.tracing.depgraph import (
    Node,
    TracedGraph,
    Way,
    cuts_channels,
    is_operation,
    is_output,
    is_split,
    pair_of,
    part_width,
)
from edcompress.pruning.tracing.grouped_convs import unite
from edcompress.pruning.tracing.operations import channel_fault, taken_over

Items = dict[tuple[Node, Way], dict[tuple[int, int], None]]
"""What goes with the outputs of a layer: for each node of the graph and each way along it, pairs (position there, channel here)."""

_MISREAD = "goes through views in the network's code that tracing misreads"
_STRETCHED = "has a single output channel, which the network's code stretches over many"
_MOST_PAIRS = 1 << 16  # far more than any group has


def trace_groups(network: nn.Module, inputs: Sequence[Tensor]) -> list[TracedGroup]:
    """Return the coupled channels of every convolution and linear layer of a network, traced with its `inputs` [N, ...].

    Raises:
        NetworkError: torch-pruning cannot trace the network, or misreads all of it.
    """
    traced = copy.deepcopy(network)
    try:
        found = list(_all_groups(TracedGraph(traced, inputs)))
    except Exception as error:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise NetworkError(
            f"{type(network).__name__} cannot be traced with an input of shape {shapes}: {type(error).__name__}: {error}"
        ) from error
    if not found:
        raise NetworkError(
            f"{type(network).__name__} has no convolution or linear layer whose channels could be removed"
        )
    if all(reason == _MISREAD for _, reason in found):
        raise NetworkError(f"{type(network).__name__} cannot be traced: every layer {_MISREAD}")
    return found


def _all_groups(graph: TracedGraph) -> Iterator[TracedGroup]:
    """Yield the group of the outputs of each convolution and linear layer; once where several layers share it."""
    seen: set[nn.Module] = set()
    widest = max((layer_width(layer, side) for layer in graph.network.modules() for side in ("out", "in")), default=0)
    for layer, node in graph.nodes.items():
        if isinstance(layer, (*CONVS, nn.Linear)) and layer not in seen:
            way = graph.outputs_of(layer)
            items: Items = {(node, way): {pair_of(channel): None for channel in range(layer_width(layer, "out"))}}
            misread = not _follow(graph, items, widest)
            made = {node.module for node, way in items if graph.is_outputs(way)}
            if layer_width(layer, "out") == 1 and any(_makes_many(other) for other in made):
                made = {layer}
                yield _read_group(graph, {(node, way): items[node, way]}, _STRETCHED)
            else:
                yield _read_group(graph, items, _MISREAD if misread else None)
            seen |= made


def _makes_many(layer: nn.Module) -> bool:
    return isinstance(layer, (*CONVS, nn.Linear)) and not is_depthwise(layer) and layer_width(layer, "out") > 1


def _follow(graph: TracedGraph, items: Items, widest: int) -> bool:
    """Add to the items of a root all that goes with them; return False, with a part of it added, where pairs multiply without end.

    That is so where a position is beyond the `widest` layer, or where there are more pairs than any group has.
    """
    stack = [(node, way, list(pairs)) for (node, way), pairs in items.items()]
    while stack:
        node, way, pairs = stack.pop()
        for edge in node.dependencies:
            if edge.is_triggered_by(way):
                fresh = _fresh(graph, pairs, edge, items)
                if len(items.get((edge.target, edge.handler), ())) > _MOST_PAIRS or any(p.idx >= widest for p in fresh):
                    return False
                if fresh:
                    stack.append((edge.target, edge.handler, fresh))
    return True


def _fresh(graph: TracedGraph, pairs: list[Any], edge: Any, items: Items) -> list[Any]:
    """Return where the pairs arrive at the other end of an edge, as far as `items` does not have them, and add them to it.

    Nothing arrives where many pairs reach the outputs of a layer that has one: the network's code stretches it over all channels.
    """
    for mapping in edge.index_mapping:
        pairs = pairs if mapping is None else mapping(pairs)
    if not pairs or (len(pairs) > 1 and graph.is_outputs(edge.handler) and _has_one(edge.target.module)):
        return []
    known = items.setdefault((edge.target, edge.handler), {})
    fresh = [pair for pair in pairs if pair not in known]
    known.update(dict.fromkeys(fresh))
    return fresh


def _has_one(layer: Any) -> bool:
    """Return whether a layer, which may be a bare parameter, has one output channel."""
    return not isinstance(layer, nn.Parameter) and layer_width(layer, "out") == 1 and not _one_for_all(layer)


def _read_group(graph: TracedGraph, items: Items, reason: str | None) -> TracedGroup:
    """Return the items as a group of a space, with the given reason to lock it or one that its nodes give."""
    channel_of = _tied(items)
    reason = reason or next(filter(None, (_reason(graph, node) for node, _ in items)), None)
    members = list(_members(graph, items, channel_of))
    beyond = next(filter(None, (_beyond(member, graph.network) for member in members)), None)
    if beyond and not reason:
        reason = next(filter(None, (_taken_over(graph, node) for node, _ in items)), beyond)
    if any(is_output(node) for node, _ in items):
        reason = reason or "feeds the network's outputs"
    name = _first_root(members, graph.names)
    return Group(name=name, channels=len(set(channel_of.values())), members=tuple(members)), reason


def _members(graph: TracedGraph, items: Items, channel_of: Mapping[int, int]) -> Iterator[Member]:
    """Yield what the items hold of each layer."""
    for (node, way), pairs in items.items():
        module = node.module
        if isinstance(module, nn.Module) and module in graph.names and not _one_for_all(module):
            placed = sorted({(position, channel_of[channel]) for position, channel in pairs})
            positions, channels = zip(*placed, strict=True)
            side = "out" if graph.is_outputs(way) else "in"
            yield Member(layer=graph.names[module], side=side, positions=positions, channels=channels)


def _reason(graph: TracedGraph, node: Node) -> str | None:
    """Return why channels that reach a node of the graph must all stay, or None."""
    if isinstance(node.module, nn.Parameter):
        return f"uses the bare parameter {graph.parameter_name(node.module)}"
    if cuts_channels(node):
        return "is split into fixed parts by the network's code"
    if not is_operation(node):
        return None
    if owner := _borrowed(graph, node):
        return (
            f"the network's code computes with the weight of {owner} and does not call the layer, so that surgery cannot cut it: call "
            f"{owner}, and compute its weight in a parametrization"
        )
    return None if is_output(node) else channel_fault(node.grad_fn, graph.width(node))


def _borrowed(graph: TracedGraph, node: Node) -> str | None:
    """Return the name of the layer whose weight an operation uses without being the call of the layer, or None."""
    for before, _ in node.grad_fn.next_functions:
        weight = getattr(before, "variable", None)
        for name, layer in graph.network.named_modules() if weight is not None else ():
            if isinstance(layer, (*CONVS, nn.Linear)) and weight is layer.weight and layer not in graph.nodes:
                return str(name)
    return None


def _beyond(member: Member, network: nn.Module) -> str | None:
    """Return why channels must stay that reach more positions than a layer has, or None."""
    width = layer_width(network.get_submodule(member.layer), member.side)
    if max(member.positions) < width or not width:
        return None
    return f"{member.layer} has {width} {member.side}put channel{'s' * (width > 1)} and is given all of its channels through views"


def _taken_over(graph: TracedGraph, node: Node) -> str | None:
    return taken_over(node.grad_fn, graph.width(node)) if is_operation(node) else None


def _tied(items: Items) -> dict[int, int]:
    """Return for each channel the channel of the group that it is part of.

    Channels that share a position of a layer go together, as those do that are added to `cat([y, f(y)])`. Where the network's code
    splits into equal parts, these stay equal when the same channel goes from every part.
    """
    splits = [node for node, _ in items if is_split(node)]
    places = (
        ((node, position % part_width(node)) if node in splits else ((node, way), position), channel)
        for (node, way), pairs in items.items()
        for position, channel in pairs
    )
    return unite((channel for _, channel in next(iter(items.values()))), places)


def _one_for_all(layer: nn.Module) -> bool:
    """Return whether a layer has one parameter for all channels, so that none goes with a channel."""
    return isinstance(layer, nn.PReLU) and layer.num_parameters == 1


def _first_root(members: Sequence[Member], names: Mapping[nn.Module, str]) -> str:
    """Return the first layer, in the order of the network, that makes exactly the channels of the group in their order."""
    whole = (members[0].positions, members[0].channels)
    roots = {m.layer for m in members if m.side == "out" and (m.positions, m.channels) == whole}
    layers = (name for module, name in names.items() if name in roots and isinstance(module, (*CONVS, nn.Linear)))
    return next(layers, members[0].layer)
