"""The adapter to torch-pruning's dependency graph; no other module imports torch_pruning.

The graph says which position of one layer goes with which of another; `coupled_groups` follows it from each producing layer. What tracing
does not see at all (the image, a buffer, an index) is found by `probe`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edcompress.networks.load_pruned import PaddedShortcut
from edcompress.networks.modes import differentiable, evaluating
from edcompress.networks.outputs import named_outputs
from edcompress.pruning.space.layers import MIXERS, layer_width
from edcompress.pruning.tracing.channelwise import channelwise_kinds
from edcompress.pruning.tracing.operations import goes_over, size_along

# Parts of torch-pruning that are private, or public by name alone, as they are in version 1.6.1. No other code uses any.
_PositionPair = tp._helpers._HybridIndex
_Split, _Slice, _Unbind, _Concat = tp.ops._SplitOp, tp.ops._SliceOp, tp.ops._UnbindOp, tp.ops._ConcatOp
_ElementWise, _Output = tp.ops._ElementWiseOp, tp.ops._OutputOp
_update_index_mapping = tp.dependency.index_mapping.update_index_mapping
_infer_out_channels = tp.dependency.shape_infer.infer_out_channels_recursively


def _layer_names(graph: Any) -> Mapping[nn.Module, str]:
    names: Mapping[nn.Module, str] = graph._module2name
    return names


def _parameter_names(graph: Any) -> Mapping[nn.Parameter, str]:
    names: Mapping[nn.Parameter, str] = graph._param_to_name
    return names


# End of the private parts.

Node = Any
"""A layer, bare parameter or operation of the traced network: `module`, `grad_fn`, `inputs`, and the edges `dependencies`."""

Way = Any
"""One side of a node along which channels go, as torch-pruning's function that would remove them."""


class _ShortcutPruner(tp.pruner.BasePruningFunc):  # type: ignore[misc]
    """Description of a PaddedShortcut for torch-pruning: inputs and outputs are cut independently, and how many there are of each."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("torch-pruning only says what belongs together")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("torch-pruning only says what belongs together")

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer_width(layer, "out")

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer_width(layer, "in")


class _ChannelwisePruner(_ShortcutPruner):
    """Description, for torch-pruning, of a layer that gives as many channels as it takes: its inputs go with its outputs."""

    prune_in_channels = _ShortcutPruner.prune_out_channels


PRUNERS: dict[type[nn.Module], tp.pruner.BasePruningFunc] = {
    PaddedShortcut: _ShortcutPruner(),
    **{kind: _ChannelwisePruner() for kind in MIXERS},
}
"""torch-pruning's customized pruners, for the layers of this package and for those that it does not know."""


class TracedGraph:
    """The dependency graph of `network`, traced with its `inputs` [N, ...] in eval mode.

    The network may keep tensors of the traced run, with their autograd graph.
    """

    def __init__(self, network: nn.Module, inputs: Sequence[Tensor]) -> None:
        with evaluating(network), differentiable(network), _ignoring_warnings():
            channelwise = {kind: _ChannelwisePruner() for kind in channelwise_kinds(network, inputs)}
            self._graph = tp.DependencyGraph().build_dependency(
                network,
                example_inputs=tuple(inputs),
                forward_fn=_forward_of(network, inputs),
                customized_pruners={**PRUNERS, **channelwise},
                verbose=False,
            )
            self._map_splits()
        self.network = network
        self.names = _layer_names(self._graph)
        """The name of each layer, in the order of the network."""
        self.nodes: Mapping[nn.Module, Node] = self._graph.module2node
        """The node of each layer, parameter and operation of the traced run."""

    def parameter_name(self, parameter: nn.Parameter) -> str:
        """Return the name of a bare parameter."""
        return _parameter_names(self._graph)[parameter]

    def outputs_of(self, layer: nn.Module) -> Way:
        """Return the way along which a layer's output channels go."""
        return self._graph.get_pruner_of_module(layer).prune_out_channels

    def is_outputs(self, way: Way) -> bool:
        """Return whether a way is along output channels."""
        outputs: bool = self._graph.is_out_channel_pruning_fn(way)
        return outputs

    def width(self, node: Node) -> int | None:
        """Return how many channels an operation takes, by the layers before it; None where that is not known."""
        return next((width for before in node.inputs if (width := self._out_width(before))), None)

    def _out_width(self, node: Node) -> int | None:
        width: int | None = _infer_out_channels(self._graph, node, [0])
        return width

    def _map_splits(self) -> None:
        """Correct how torch-pruning maps channels through operations that split and join.

        It maps none through a split after a class token or position embedding, although the channels are split there as elsewhere; and it
        maps them through splits, slices and concatenations of rows or tokens, every part of which has all channels.
        """
        nodes = [node for node in self._graph.module2node.values() if _divides(node.module)]
        for node in nodes:
            if isinstance(node.module, _Split):
                node.enable_index_mapping = True
        for node in [node for node in nodes if self._has_whole_parts(node)]:
            node.module, node.type = _ElementWise(node.module.id, "Parts"), tp.ops.OPTYPE.ELEMENTWISE
        for node in self._graph.module2node.values():
            for edge in node.dependencies:
                edge.index_mapping = [None, None]
        _update_index_mapping(self._graph)

    def _has_whole_parts(self, node: Node) -> bool:
        """Return whether a split or concatenation is known to go along a dimension other than that of the channels."""
        if isinstance(node.module, _Concat) and size_along(node.grad_fn) == self._out_width(node):
            return False
        return goes_over(node.grad_fn, self.width(node)) is False


def _forward_of(network: nn.Module, inputs: Sequence[Tensor]) -> Callable[[nn.Module, Sequence[Tensor]], list[Tensor]]:
    """Return how to run a network for tracing: in eval mode, or where it has auxiliary heads that run in train mode alone, with these.

    Then modules that hold others are in train mode, and the layers themselves are not.
    """
    with evaluating(network), torch.no_grad():
        training = _has_more_in_training(network, inputs)

    def forward(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
        with _containers_training(network) if training else nullcontext():
            return list(named_outputs(network(*inputs)).values())

    return forward


def _has_more_in_training(network: nn.Module, inputs: Sequence[Tensor]) -> bool:
    try:
        with _containers_training(network), torch.random.fork_rng(devices=[]):
            found = network(*inputs)
    except Exception:  # of any kind: the network's code does not train on these inputs
        return False
    return not isinstance(found, Tensor) and len(named_outputs(found)) > len(named_outputs(network(*inputs)))


@contextmanager
def _containers_training(network: nn.Module) -> Iterator[None]:
    """Put the modules that hold other modules into train mode inside the block."""
    with evaluating(network):
        for module in network.modules():
            module.training = any(True for _ in module.children())
        yield


@contextmanager
def _ignoring_warnings() -> Iterator[None]:
    """Silence torch-pruning's warnings of bare parameters that it will not prune; the space names them itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pair_of(channel: int) -> Any:
    """Return the pair (position, channel) of a channel at its own position, as edges map pairs."""
    return _PositionPair(channel, channel)


def is_operation(node: Node) -> bool:
    """Return whether a node is an operation of the network's code whose autograd node is known."""
    return type(node.module).__module__ == tp.ops.__name__ and hasattr(node.grad_fn, "name")


def is_output(node: Node) -> bool:
    """Return whether a node is an output of the network."""
    return isinstance(node.module, _Output)


def is_split(node: Node) -> bool:
    """Return whether a node is a split or chunk."""
    return isinstance(node.module, _Split)


def part_width(node: Node) -> int:
    """Return how many channels each part of a split has; all of them where the parts are not equal."""
    offsets: list[int] = node.module.offsets or [0]
    parts = {after - before for before, after in pairwise(offsets)}
    return parts.pop() if len(parts) == 1 else max(offsets[-1], 1)


def cuts_channels(node: Node) -> bool:
    """Return whether an operation takes a part of its channels, such that parts would not stay equal if each lost the same ones."""
    operation = node.module
    if isinstance(operation, _Slice):
        return operation.dim not in (0, 2, 3)
    if isinstance(operation, _Split):
        return not operation.offsets or part_width(node) == operation.offsets[-1]
    return isinstance(operation, _Unbind)


def _divides(operation: object) -> bool:
    return isinstance(operation, (_Split, _Slice, _Unbind, _Concat))
