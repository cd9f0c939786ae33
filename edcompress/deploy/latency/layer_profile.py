"""Which layer of a network takes which share of onnxruntime's time, from onnxruntime's own profile."""

from __future__ import annotations

import ast
import json
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from edcompress.core.recipe.deployment import Benchmark
from edcompress.deploy.export.onnx_export import INPUT
from edcompress.deploy.runtime.sessions import session

CALLS = 10
_SCOPES = "pkg.torch.onnx.name_scopes"


def layer_times(network: nn.Module, model: onnx.ModelProto, example: Tensor, options: Benchmark) -> dict[str, float]:
    """The share of the time in [0, 1] of each layer, by name, for images like `example` [N, ...], the dearest first.

    `model` is what `to_onnx` made of the network. What onnxruntime fuses into a convolution or linear layer counts as that layer; "" is
    what belongs to no layer (changes of layout).
    """
    layers = _Layers(model, {name for name, _ in network.named_modules()})
    spent: Counter[str] = Counter()
    images = np.repeat(example[:1].numpy(), options.first.batch_size, axis=0)
    for name, operation, microseconds in profiled(model, {INPUT: images}, options, CALLS, CALLS):
        spent[layers.of(name, operation)] += microseconds
    return {layer: time / spent.total() for layer, time in spent.most_common()}


def profiled(
    model: onnx.ModelProto, feed: Mapping[str, NDArray[np.float32]], options: Benchmark, warm_up: int, calls: int
) -> Iterator[tuple[str, str, int]]:
    """Name, operation and microseconds of every node's run in `calls` calls, after `warm_up` others, in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save_model(model, str(path))
        opened = session(path, options.first.threads, options.provider, profile=Path(folder) / "profile")
        for _ in range(warm_up + calls):
            opened.run(None, feed)
        events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    for event in kernels[len(kernels) * warm_up // (warm_up + calls) :]:
        yield event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], event["dur"]


class _Layers:
    """The layers behind the nodes of an exported model, and behind those that onnxruntime makes of them."""

    def __init__(self, model: onnx.ModelProto, names: Collection[str]) -> None:
        self._names = names
        self._nodes = {node.name: node for node in model.graph.node}
        self._makers = {output: node for node in model.graph.node for output in node.output}

    def of(self, name: str, operation: str) -> str:
        """The layer of onnxruntime's node: it has the name of a node of the model, or of what the last of its fused nodes gives."""
        plain = name.partition("/")[0].removesuffix("_nchwc")
        node = self._nodes.get(plain) or self._makers.get(plain)
        return "" if node is None else self._layer(self._main(node, operation.removeprefix("Fused")))

    def _main(self, last: onnx.NodeProto, operation: str) -> onnx.NodeProto:
        """Of nodes fused into one, of which this is the last, that which gave it its operation."""
        near = [last]
        for node in near:
            if node.op_type == operation:
                return node
            near += [self._makers[name] for name in node.input if name in self._makers and len(near) < 8]
        return last

    def _layer(self, node: onnx.NodeProto) -> str:
        """The layer with the node's weight, else the innermost module whose code the node is of."""
        weights = (name.rpartition(".")[0] for name in node.input)
        scopes = [ast.literal_eval(entry.value) for entry in node.metadata_props if entry.key == _SCOPES]
        modules = (name for scope in scopes for name in reversed(scope))
        return next((name for name in (*weights, *modules) if name and name in self._names), "")
