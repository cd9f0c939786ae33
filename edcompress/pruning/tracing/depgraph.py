"""The adapter to torch-pruning's dependency graph; no other module imports torch_pruning.

The graph says which position of one layer goes with which of another; it is followed here from each producing layer. What tracing does
not see at all (the image, a buffer, an index) is found by `edcompress.surgery.probe`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from edcompress.core.errors import NetworkError
from edcompress.networks.load_pruned import PaddedShortcut
from edcompress.networks.modes import differentiable, evaluating
from edcompress.pruning.space.layers import CONVS, MIXERS, is_depthwise, layer_width
from edcompress.pruning.space.space import Group, Member, TracedGroup
from edcompress.pruning.tracing.channelwise import channelwise_kinds
from edcompress.pruning.tracing.grouped_convs import united
from edcompress.pruning.tracing.operations import channel_fault, goes_over, size_along, taken_over

Items = dict[tuple[Any, Any], dict[tuple[int, int], None]]
"""What goes with a layer's outputs: for each node of the graph and each way to prune it, pairs (position there, channel here)."""

_MISREAD = "goes through views in the network's code that tracing misreads"
_STRETCHED = "has a single output channel, which the network's code stretches over many"
_PARTS = (tp.ops._SplitOp, tp.ops._SliceOp, tp.ops._UnbindOp, tp.ops._ConcatOp)
_MOST_PAIRS = 1 << 16  # far more than any group has


class _ShortcutPruner(tp.pruner.BasePruningFunc):  # type: ignore[misc]
    """What torch-pruning must know of a PaddedShortcut: that its inputs and outputs are cut apart from each other, and how many it has."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("torch-pruning only tells what belongs together")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("torch-pruning only tells what belongs together")

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer_width(layer, "out")

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer_width(layer, "in")


class _ChannelwisePruner(_ShortcutPruner):
    """What torch-pruning must know of a layer that gives as many channels as it takes: its inputs go with its outputs."""

    prune_in_channels = _ShortcutPruner.prune_out_channels


PRUNERS: dict[type[nn.Module], tp.pruner.BasePruningFunc] = {
    PaddedShortcut: _ShortcutPruner(),
    **{kind: _ChannelwisePruner() for kind in MIXERS},
}
"""torch-pruning's customized pruners, for our networks' own layers and for those that it does not know."""


def traced_groups(network: nn.Module, inputs: Sequence[Tensor]) -> list[TracedGroup]:
    """Coupled channels of every convolution and linear layer of `network`, traced with its `inputs` [N, ...].

    NetworkError where torch-pruning cannot trace it, or misreads all of it.
    """
    traced = copy.deepcopy(network)  # which may keep tensors of the traced run, with their graph
    try:
        with evaluating(traced), differentiable(traced), _quiet():
            channelwise = {kind: _ChannelwisePruner() for kind in channelwise_kinds(traced, inputs)}
            graph = tp.DependencyGraph().build_dependency(
                traced, example_inputs=tuple(inputs), customized_pruners={**PRUNERS, **channelwise}, verbose=False
            )
            _map_splits(graph)
            found = list(_all_groups(graph))
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


@contextmanager
def _quiet() -> Iterator[None]:
    """torch-pruning warns of bare parameters it will not prune; the space says so itself, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _map_splits(graph: Any) -> None:
    """torch-pruning maps no channels through a split that comes after a class token or positions; the channels are split all the same.

    And it maps them through splits, slices and concatenations of rows or tokens, which have all channels in every part.
    """
    nodes = [node for node in graph.module2node.values() if isinstance(node.module, _PARTS)]
    for node in nodes:
        if isinstance(node.module, tp.ops._SplitOp):
            node.enable_index_mapping = True
    whole = [node for node in nodes if _has_whole_parts(graph, node)]
    for node in whole:
        node.module, node.type = tp.ops._ElementWiseOp(node.module.id, "Parts"), tp.ops.OPTYPE.ELEMENTWISE
    for node in graph.module2node.values():
        for edge in node.dependencies:
            edge.index_mapping = [None, None]
    tp.dependency.index_mapping.update_index_mapping(graph)


def _has_whole_parts(graph: Any, node: Any) -> bool:
    """Whether a split or concatenation is known to go along another dimension than that of the channels."""
    if isinstance(node.module, tp.ops._ConcatOp) and size_along(node.grad_fn) == _out_width(graph, node):
        return False
    return goes_over(node.grad_fn, _width(graph, node)) is False


def _width(graph: Any, node: Any) -> int | None:
    """How many channels an operation takes, by the layers before it."""
    return next((width for before in node.inputs if (width := _out_width(graph, before))), None)


def _out_width(graph: Any, node: Any) -> int | None:
    width: int | None = tp.dependency.shape_infer.infer_out_channels_recursively(graph, node, [0])
    return width


def _all_groups(graph: Any) -> Iterator[TracedGroup]:
    """The group of each convolution's and linear layer's outputs; once where several layers share it."""
    seen: set[nn.Module] = set()
    widest = max((layer_width(layer, side) for layer in graph.model.modules() for side in ("out", "in")), default=0)
    for layer, node in graph.module2node.items():
        if isinstance(layer, (*CONVS, nn.Linear)) and layer not in seen:
            way = graph.get_pruner_of_module(layer).prune_out_channels
            items: Items = {(node, way): {_same(channel): None for channel in range(layer_width(layer, "out"))}}
            misread = not _follow(graph, items, widest)
            made = {node.module for node, way in items if graph.is_out_channel_pruning_fn(way)}
            if layer_width(layer, "out") == 1 and any(_makes_many(other) for other in made):
                made = {layer}
                yield _read_group(graph, {(node, way): items[node, way]}, _STRETCHED)
            else:
                yield _read_group(graph, items, _MISREAD if misread else None)
            seen |= made


def _makes_many(layer: nn.Module) -> bool:
    return isinstance(layer, (*CONVS, nn.Linear)) and not is_depthwise(layer) and layer_width(layer, "out") > 1


def _same(channel: int) -> Any:
    """The pair (channel, channel)."""
    return tp._helpers._HybridIndex(channel, channel)


def _follow(graph: Any, items: Items, widest: int) -> bool:
    """Add to the items of a root all that goes with them; False, and only a part of it, where pairs multiply without end.

    That is so where a position is beyond the `widest` layer, or where there are more of them than any group has.
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


def _fresh(graph: Any, pairs: list[Any], edge: Any, items: Items) -> list[Any]:
    """Where the pairs come out at the edge's other end, as far as it was not known; they are known from now on.

    Nowhere where many come to the outputs of a layer that has one: the network's code stretches it over all channels.
    """
    for mapping in edge.index_mapping:
        pairs = pairs if mapping is None else mapping(pairs)
    if not pairs or (len(pairs) > 1 and graph.is_out_channel_pruning_fn(edge.handler) and _has_one(edge.target.module)):
        return []
    known = items.setdefault((edge.target, edge.handler), {})
    fresh = [pair for pair in pairs if pair not in known]
    known.update(dict.fromkeys(fresh))
    return fresh


def _has_one(layer: Any) -> bool:
    """Whether a layer, which may be a bare parameter, has one output channel."""
    return not isinstance(layer, nn.Parameter) and layer_width(layer, "out") == 1 and not _one_for_all(layer)


def _read_group(graph: Any, items: Items, reason: str | None) -> TracedGroup:
    """The group in our words, and a reason to lock it if there is one already or it holds something without a layer name."""
    names = graph._module2name
    channel_of = _tied(items)
    members = []
    for (node, way), pairs in items.items():
        module = node.module
        reason = reason or _reason(graph, node)
        if isinstance(module, nn.Module) and module in names and not _one_for_all(module):
            side = "out" if graph.is_out_channel_pruning_fn(way) else "in"
            placed = sorted({(position, channel_of[channel]) for position, channel in pairs})
            positions, channels = zip(*placed, strict=True)
            members.append(Member(layer=names[module], side=side, positions=positions, channels=channels))
    beyond = next(filter(None, (_beyond(member, graph.model) for member in members)), None)
    if beyond and not reason:
        reason = next(filter(None, (_taken_over(graph, node) for node, _ in items)), beyond)
    if any(isinstance(node.module, tp.ops._OutputOp) for node, _ in items):
        reason = reason or "feeds the network's outputs"
    group = Group(name=_first_root(members, names), channels=len(set(channel_of.values())), members=tuple(members))
    return group, reason


def _reason(graph: Any, node: Any) -> str | None:
    """Why channels that come to a node of the graph must all stay, or None."""
    module = node.module
    if isinstance(module, nn.Parameter):
        return f"uses the bare parameter {graph._param_to_name[module]}"
    if _cuts_channels(module):
        return "is split into fixed parts by the network's code"
    if not _is_operation(node):
        return None
    if owner := _borrowed(graph, node):
        return (
            f"the network's code computes with the weight of {owner} and does not call the layer, so that surgery cannot cut it: call "
            f"{owner}, and compute its weight in a parametrization"
        )
    return None if isinstance(module, tp.ops._OutputOp) else channel_fault(node.grad_fn, _width(graph, node))


def _borrowed(graph: Any, node: Any) -> str | None:
    """The convolution or linear layer whose weight an operation takes that is not its call."""
    for before, _ in node.grad_fn.next_functions:
        weight = getattr(before, "variable", None)
        for name, layer in graph.model.named_modules() if weight is not None else ():
            if isinstance(layer, (*CONVS, nn.Linear)) and weight is layer.weight and layer not in graph.module2node:
                return str(name)
    return None


def _beyond(member: Member, network: nn.Module) -> str | None:
    """Why channels must stay that come to more positions than a layer has."""
    width = layer_width(network.get_submodule(member.layer), member.side)
    if max(member.positions) < width or not width:
        return None
    return f"{member.layer} has {width} {member.side}put channel{'s' * (width > 1)} and is given all of its channels through views"


def _taken_over(graph: Any, node: Any) -> str | None:
    return taken_over(node.grad_fn, _width(graph, node)) if _is_operation(node) else None


def _is_operation(node: Any) -> bool:
    return type(node.module).__module__ == tp.ops.__name__ and hasattr(node.grad_fn, "name")


def _tied(items: Items) -> dict[int, int]:
    """For each channel the channel of the group that it is part of.

    Channels that share a position of a layer go together, as those do that are added to `cat([y, f(y)])`. Where the network's code
    splits into equal parts, these stay equal when the same channel goes from every part.
    """
    splits = [node for node, _ in items if isinstance(node.module, tp.ops._SplitOp)]
    places = (
        ((node, position % _part(node.module)) if node in splits else ((node, way), position), channel)
        for (node, way), pairs in items.items()
        for position, channel in pairs
    )
    return united((channel for _, channel in next(iter(items.values()))), places)


def _part(split: Any) -> int:
    """How many channels each part of a split has; all of them where the parts are not equal."""
    offsets: list[int] = split.offsets or [0]
    parts = {after - before for before, after in pairwise(offsets)}
    return parts.pop() if len(parts) == 1 else max(offsets[-1], 1)


def _cuts_channels(operation: object) -> bool:
    """Whether a traced operation gives a part of its input's channels, and parts would not stay equal if each lost the same."""
    if isinstance(operation, tp.ops._SliceOp):
        return operation.dim not in (0, 2, 3)
    if isinstance(operation, tp.ops._SplitOp):
        return not operation.offsets or _part(operation) == operation.offsets[-1]
    return isinstance(operation, tp.ops._UnbindOp)


def _one_for_all(layer: nn.Module) -> bool:
    """Whether a layer has the same parameter for every channel, so that none goes with a channel."""
    return isinstance(layer, nn.PReLU) and layer.num_parameters == 1


def _first_root(members: Sequence[Member], names: Mapping[nn.Module, str]) -> str:
    """The first layer, in the order of the network, that produces exactly the group's channels in their order."""
    whole = (members[0].positions, members[0].channels)
    roots = {m.layer for m in members if m.side == "out" and (m.positions, m.channels) == whole}
    layers = (name for module, name in names.items() if name in roots and isinstance(module, (*CONVS, nn.Linear)))
    return next(layers, members[0].layer)
