"""The share of the time that each layer of a network takes, from the runtime's own profile."""

from __future__ import annotations

import ast
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from edcompress.core.recipe.deployment import Benchmark
from edcompress.deploy.export.onnx_export import INPUT, WRAPPED
from edcompress.deploy.runtime.sessions import NodeTime, open_session

CALLS = 10
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Key of a node's metadata under which torch's exporter names the modules around it; private to torch, seen in 2.14."""


def measure_layer_shares(
    network: nn.Module, model: onnx.ModelProto, example: Tensor, options: Benchmark
) -> dict[str, float]:
    """Return the share of the time in [0, 1] of each layer, by name, the most expensive first.

    What the runtime fuses into a convolution or linear layer counts as that layer; "" is what belongs to no layer (changes of layout).

    Args:
        network: The network.
        model: What `to_onnx` made of it.
        example: Images [N, ...] like those that the network takes.
        options: The batch size, the threads and the provider to measure with.
    """
    layers = _Layers(model, {name for name, _ in network.named_modules()})
    spent: Counter[str] = Counter()
    images = np.repeat(example[:1].numpy(), options.first.batch_size, axis=0)
    for name, operation, microseconds in profile_nodes(model, {INPUT: images}, options, CALLS, CALLS):
        spent[layers.find(name, operation)] += microseconds
    return {layer: time / spent.total() for layer, time in spent.most_common()}


def profile_nodes(
    model: onnx.ModelProto, feed: Mapping[str, NDArray[np.float32]], options: Benchmark, warm_up: int, calls: int
) -> list[NodeTime]:
    """Return every node's run in `calls` calls of a model, which follow `warm_up` other calls, in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save_model(model, str(path))
        opened = open_session(path, options.first.threads, options.provider, profile=Path(folder) / "profile")
        for _ in range(warm_up + calls):
            opened.run(feed)
        runs = opened.node_times()
    return runs[len(runs) * warm_up // (warm_up + calls) :]


class _Layers:
    """The layers that the nodes of an exported model belong to, and those that the runtime fuses."""

    def __init__(self, model: onnx.ModelProto, names: Collection[str]) -> None:
        self._names = names
        self._nodes = {node.name: node for node in model.graph.node}
        self._makers = {output: node for node in model.graph.node for output in node.output}

    def find(self, name: str, operation: str) -> str:
        """Return the layer of a `NodeTime`; "" for none."""
        node = self._nodes.get(name) or self._makers.get(name)
        return "" if node is None else self._layer(self._main(node, operation))

    def _main(self, last: onnx.NodeProto, operation: str) -> onnx.NodeProto:
        """Return the node with this operation among those that are fused into one, of which `last` is the last."""
        near = [last]
        for node in near:
            if node.op_type == operation:
                return node
            near += [self._makers[name] for name in node.input if name in self._makers and len(near) < 8]
        return last

    def _layer(self, node: onnx.NodeProto) -> str:
        """Return the layer with the node's weight, else the innermost module whose code made the node."""
        weights = (name.rpartition(".")[0] for name in node.input)
        scopes = [ast.literal_eval(entry.value) for entry in node.metadata_props if entry.key == _SCOPES]
        modules = (name for scope in scopes for name in reversed(scope))
        names = (name.removeprefix(WRAPPED) for name in (*weights, *modules))
        return next((name for name in names if name and name in self._names), "")
