"""Variants of an ONNX file: in half precision, in eight bits, and with uint8 pixels as input."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from edcompress.core.errors import EdcompressError
from edcompress.core.results.report import Preprocessing
from edcompress.core.system.quiet import first_lines, quiet
from edcompress.deploy.export.onnx_export import INPUT, write_model
from edcompress.deploy.runtime.onnxruntime_private import TOOL_LOGGERS, convert_to_float16
from edcompress.deploy.runtime.parity import batch_limit
from edcompress.deploy.runtime.sessions import open_session

CARRIERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that hold the weights, and nearly all of the arithmetic."""

_REARRANGING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose output holds the very values of their input."""

PIXELS = "pixels"
"""Name of the input of a file that takes uint8 pixels."""


def halve(path: Path, output: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file again with weights and arithmetic in float16, input and output still float32.

    Args:
        path: The file in float32.
        output: The file to write.
        metadata: Its metadata.

    Raises:
        EdcompressError: The model cannot be converted; `output` is as it was.
    """
    try:
        with quiet(*TOOL_LOGGERS):
            model = convert_to_float16(onnx.load(path))
    except Exception as error:  # the converter raises all kinds
        raise EdcompressError(
            f"{path.name} cannot be converted to float16: {type(error).__name__}: {first_lines(error)}; "
            "export without --fp16 (export.fp16=false)"
        ) from error
    write_model(model, output, metadata)


def quantize(path: Path, output: Path, images: Tensor, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file again with int8 weights per channel, uint8 activations (QDQ), and fp32 input and output.

    Activations are scaled to their least and largest value on the images; the logits are not, because in 256 steps two classes are often
    equal. Weights use seven of the eight bits: without VNNI, x86 adds pairs of products in 16 bits, which overflow with eight.

    Args:
        path: The file in float32.
        output: The file to write.
        images: Images [N, C, H, W] for calibration, normalised as for the network.
        metadata: Metadata of the new file.

    Raises:
        EdcompressError: onnxruntime cannot quantise the network; `output` is as it was.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with quiet(*TOOL_LOGGERS):
                model = _quantized(path, Path(folder), images)
        except Exception as error:  # onnxruntime's quantiser raises all kinds, AssertionError and KeyError among them
            raise EdcompressError(_refusal(path, f"{type(error).__name__}: {first_lines(error)}")) from error
    if not _in_int8(model):
        raise EdcompressError(_refusal(path, f"none of its operators ({_listed(model)}) has an int8 form"))
    write_model(model, output, metadata)


def _quantized(path: Path, folder: Path, images: Tensor) -> onnx.ModelProto:
    from onnxruntime import quantization as ort

    ort.quant_pre_process(str(path), str(folder / "shaped.onnx"))
    ort.quantize_static(
        str(folder / "shaped.onnx"),
        str(folder / "int8.onnx"),
        _Reader(images, batch_limit(open_session(path))),
        quant_format=ort.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
        calibrate_method=ort.CalibrationMethod.MinMax,
    )
    model = onnx.load(folder / "int8.onnx")
    _free_logits(model.graph)
    return model


def _free_logits(graph: onnx.GraphProto) -> None:
    """Remove, in place, what quantises the logits and restores them, at each output and before a rearrangement of it."""
    for output in graph.output:
        _free_output(graph, output.name)


def _free_output(graph: onnx.GraphProto, end: str) -> None:
    makers = {name: node for node in graph.node for name in node.output}
    scales = set[str]()
    while (restored := makers.get(end)) is not None:
        if restored.op_type in _REARRANGING:
            end = restored.input[0]
            continue
        quantised = makers.get(restored.input[0]) if restored.op_type == "DequantizeLinear" else None
        if quantised is None or quantised.op_type != "QuantizeLinear" or quantised.input[0] not in makers:
            break
        scales |= {*quantised.input[1:], *restored.input[1:]}
        source = quantised.input[0]
        graph.node.remove(quantised)
        graph.node.remove(restored)
        for names in (names for node in graph.node for names in (node.input, node.output)):
            names[:] = [end if name == source else name for name in names]
        makers[end] = makers[source]
    unused = scales - {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in unused]:
        graph.initializer.remove(tensor)


class _Reader:
    """The reader from which the quantiser takes its batches, all of one size: the first images come again where the last batch is short."""

    def __init__(self, images: Tensor, size: int) -> None:
        count = -(-len(images) // size) * size
        filled = images.repeat(-(-count // len(images)), 1, 1, 1)[:count]
        self._batches = iter(torch.split(filled, size))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.contiguous().numpy()}


def _in_int8(model: onnx.ModelProto) -> bool:
    """Check that a layer with weights takes all of its inputs from eight bits."""
    restored = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return any(node.op_type in CARRIERS and set(node.input[:2]) <= restored for node in model.graph.node)


def _listed(model: onnx.ModelProto) -> str:
    return ", ".join(sorted({node.op_type for node in model.graph.node}))


def _refusal(path: Path, why: str) -> str:
    return f"{path.name} cannot be quantised to int8: {why}; export without --int8 (export.int8=false)"


def with_normalisation(path: Path, output: Path, preprocessing: Preprocessing, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file again behind an input "pixels", uint8 [batch, H, W, C], already resized, as image decoders give it.

    The graph computes (pixels / 255 - mean) / std in the order of operations of `transforms.normalised`, so that the logits are the same.

    Args:
        path: The file that takes normalised images.
        output: The file to write.
        preprocessing: Mean and standard deviation of each channel.
        metadata: Metadata of the new file.
    """
    model = onnx.load(path)
    images = model.graph.input[0]
    batch, channels, *square = images.type.tensor_type.shape.dim
    shape = [one.dim_param or one.dim_value for one in (batch, *square, channels)]
    first = [
        helper.make_node("Transpose", [PIXELS], ["pixels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["pixels_first"], ["pixels_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels_float", "pixels_share"], ["pixels_scaled"]),
        helper.make_node("Sub", ["pixels_scaled", "pixels_mean"], ["pixels_centred"]),
        helper.make_node("Div", ["pixels_centred", "pixels_std"], [INPUT]),
    ]
    nodes = [*first, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    constants = {"share": [1 / 255], "mean": preprocessing.mean, "std": preprocessing.std}
    for name, values in constants.items():
        column = np.asarray(values, np.float32).reshape(-1, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(column, f"pixels_{name}"))
    images.CopyFrom(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))
    write_model(model, output, metadata)
