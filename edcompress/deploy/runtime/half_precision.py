"""Sessions that compute float16 in float16, as GPUs do; onnxruntime's CPU provider computes it in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edcompress.core.errors import InputError
from edcompress.deploy.runtime.sessions import Session, open_session

UNROUNDED = ".unrounded"
"""Suffix of the name that a float16 result has, in the model of `round_float16`, before it is rounded."""

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def faithful_session(path: Path, threads: int = 1) -> Session:
    """Open an ONNX file on the CPU so that it gives what its own precision gives.

    In float32 nothing overflows that does in float16. So a file that holds float16 is opened as `round_float16` makes it.

    Raises:
        InputError: The file cannot be loaded, or not be rounded.
    """
    opened = open_session(path, threads)
    model = round_float16(path)
    if model is None:
        return opened
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        onnx.save_model(model, str(copy))
        return open_session(copy, threads)


def round_float16(path: Path) -> onnx.ModelProto | None:
    """Return the model of a file in float32, with each float16 result rounded to float16, as GPUs keep it; None where it has no float16.

    Within a node both sum in float32.

    Raises:
        InputError: It is not known which results are float16.
    """
    model = onnx.load(path)
    graphs = list(_graphs(model.graph))
    if not sum([_widen(graph) for graph in graphs]):
        return None
    types = {
        value.name: value.type.tensor_type.elem_type
        for graph in _graphs(onnx.shape_inference.infer_shapes(onnx.load(path)).graph)
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    for graph in reversed(graphs):  # those within a graph before it: it takes copies of its nodes
        _round(graph, types, path)
    return model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph, and those within its nodes."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _graphs(inner)


def _widen(graph: onnx.GraphProto) -> int:
    """Have all that brings float16 into a graph bring float32, in place; return how much there was."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    tensors = [*graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))]
    tensors = [tensor for tensor in tensors if tensor.data_type == _HALF]
    kinds = [attribute for attribute in attributes if attribute.name in ("to", "dtype") and attribute.i == _HALF]
    values = [value.type.tensor_type for value in (*graph.input, *graph.output)]
    values = [value for value in values if value.elem_type == _HALF]
    for tensor in tensors:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for kind in kinds:
        kind.i = _FLOAT
    for value in values:
        value.elem_type = _FLOAT
    del graph.value_info[:]
    return len(tensors) + len(kinds) + len(values)


def _round(graph: onnx.GraphProto, types: Mapping[str, int], path: Path) -> None:
    """Round the float16 results of a graph in place."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name and name not in types:
                raise InputError(
                    f"{path}: it holds float16, and it is not known whether {node.op_type} {name} is float16 too, so that it cannot be "
                    "computed in float16 here; give the float32 file"
                )
            if types.get(name) == _HALF:
                node.output[position] = name + UNROUNDED
                nodes.append(helper.make_node("Cast", [name + UNROUNDED], [name + ".half"], to=_HALF))
                nodes.append(helper.make_node("Cast", [name + ".half"], [name], to=_FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
