"""An ONNX file in half precision, and what it gives where half precision is computed in half precision."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.system.quiet import first_lines, quiet
from edcompress.deploy.export.onnx_export import write_model
from edcompress.deploy.runtime.sessions import session

UNROUNDED = ".unrounded"
"""How the name of a float16 result ends, in what `rounded` makes, before it is rounded."""

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def halve(path: Path, output: Path, metadata: Mapping[str, str]) -> None:
    """Write `output`: `path` with weights and arithmetic in float16, input and output still float32.

    Raises EdcompressError, and leaves `output` as it was, when the model cannot be converted.
    """
    try:
        with quiet(""):
            from onnxruntime.transformers.float16 import convert_float_to_float16
            from onnxruntime.transformers.onnx_model import OnnxModel

            model = convert_float_to_float16(onnx.load(path), keep_io_types=True)
            OnnxModel(model).topological_sort()  # the converter puts the casts of the input last
    except Exception as error:  # the converter raises all kinds
        raise EdcompressError(
            f"{path.name} cannot be converted to float16: {type(error).__name__}: {first_lines(error)}; "
            "export without --fp16 (export.fp16=false)"
        ) from error
    write_model(model, output, metadata)


def faithful_session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """An open session of `path` on the CPU that gives what the file's own precision gives.

    onnxruntime's CPU provider computes float16 in float32, where nothing overflows that does on a GPU. So a file that holds float16 is
    opened as `rounded` makes it. Raises InputError where the file cannot be loaded, or not be rounded.
    """
    opened = session(path, threads)
    model = rounded(path)
    if model is None:
        return opened
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        onnx.save_model(model, str(copy))
        return session(copy, threads)


def rounded(path: Path) -> onnx.ModelProto | None:
    """The model of `path` in float32, with each float16 result rounded to float16, as GPUs keep it; None where it holds no float16.

    Within a node both sum in float32. Raises InputError where it cannot be told which results are float16.
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
    """A graph, and those within its nodes."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _graphs(inner)


def _widen(graph: onnx.GraphProto) -> int:
    """Have all that brings float16 into a graph bring float32, in place; how much there was."""
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
        for place, name in enumerate(node.output):
            if name and name not in types:
                raise InputError(
                    f"{path}: it holds float16, and whether {node.op_type} {name} is float16 too cannot be told, so that it cannot be "
                    "computed in float16 here; give the float32 file"
                )
            if types.get(name) == _HALF:
                node.output[place] = name + UNROUNDED
                nodes.append(helper.make_node("Cast", [name + UNROUNDED], [name + ".half"], to=_HALF))
                nodes.append(helper.make_node("Cast", [name + ".half"], [name], to=_FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
