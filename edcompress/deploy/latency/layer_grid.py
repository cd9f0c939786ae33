"""The time of a layer at other widths, measured on single convolutions and products of matrices of the layer's shape."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edcompress.core.recipe.deployment import Benchmark
from edcompress.deploy.latency.layer_profile import profile_nodes

WARM_UP, CALLS = 5, 15
_SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
_BLOCK = 8  # channels on which onnxruntime's convolutions work at a time


class LayerShape(NamedTuple):
    """The shape of a convolution, or of a linear layer, on which its time depends.

    `inputs` are those of one group, as in the weight [outputs, inputs, *kernel]. `size` is height and width of a convolution's input, and
    what is between batch and features of a linear layer's.
    """

    inputs: int
    outputs: int
    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    size: tuple[int, ...]
    linear: bool


class Grid(NamedTuple):
    """Milliseconds [inputs, outputs] of a layer at some widths, both rising to the layer's own."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]


def measure_grid(shape: LayerShape, options: Benchmark) -> Grid:
    """Measure a layer at up to six widths of its inputs and outputs; a grouped convolution loses whole groups, with its outputs."""
    blocks = shape.outputs // shape.groups if shape.groups > 1 else _BLOCK
    outputs = _widths(shape.outputs, blocks)
    inputs = (shape.inputs,) if shape.groups > 1 else _widths(shape.inputs, _BLOCK)
    times = _run(_model(shape, inputs, outputs, options.first.batch_size), options)
    return Grid(inputs, outputs, tuple(tuple(times[_name(i, o)] for o in outputs) for i in inputs))


def _widths(width: int, block: int) -> tuple[int, ...]:
    """Return multiples of the block near the shares of the width, and the width itself."""
    near = {min(width, max(block, round(share * width / block) * block)) for share in _SHARES}
    return tuple(sorted({*near, width}))


def _name(inputs: int, outputs: int) -> str:
    return f"i{inputs}o{outputs}"


def _model(shape: LayerShape, inputs: Sequence[int], outputs: Sequence[int], batch: int) -> onnx.ModelProto:
    """Build a model with one independent node for each pair of widths."""
    random = np.random.default_rng(0)
    nodes, weights, given = [], [], {}
    for i in inputs:
        for o in outputs:
            groups = max(1, shape.groups * o // shape.outputs)
            channels, name = i * groups, _name(i, o)
            image = [*shape.size, channels] if shape.linear else [channels, *shape.size]
            given[f"x{channels}"] = helper.make_tensor_value_info(f"x{channels}", TensorProto.FLOAT, [batch, *image])
            size = (i, o) if shape.linear else (o, i, *shape.kernel)
            weights.append(numpy_helper.from_array(random.standard_normal(size, dtype=np.float32), f"w{name}"))
            nodes.append(_node(shape, name, f"x{channels}", groups))
    results = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes]
    graph = helper.make_graph(nodes, "grid", list(given.values()), results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _node(shape: LayerShape, name: str, given: str, groups: int) -> onnx.NodeProto:
    if shape.linear:
        return helper.make_node("MatMul", [given, f"w{name}"], [name], name=name)
    return helper.make_node(
        "Conv", [given, f"w{name}"], [name], name=name, group=groups, kernel_shape=shape.kernel, strides=shape.strides,
        pads=[*shape.pads, *shape.pads], dilations=shape.dilations)  # fmt: skip


def _run(model: onnx.ModelProto, options: Benchmark) -> dict[str, float]:
    """Return the median milliseconds of each node."""
    sizes = {given.name: [dim.dim_value for dim in given.type.tensor_type.shape.dim] for given in model.graph.input}
    feed = {name: np.ones(size, dtype=np.float32) for name, size in sizes.items()}
    times: dict[str, list[float]] = defaultdict(list)
    for name, operation, microseconds in profile_nodes(model, feed, options, WARM_UP, CALLS):
        if operation in ("Conv", "MatMul", "Gemm"):
            times[name].append(microseconds / 1000)
    return {name: statistics.median(found) for name, found in times.items()}
