"""The parts of onnxruntime that edcompress relies on and that its documentation does not promise; seen in 1.32. Imports no torch.

A new version of onnxruntime that breaks one of them breaks it here.
"""

from __future__ import annotations

from typing import Any

from onnxruntime.capi import onnxruntime_pybind11_state as _state

ERRORS: tuple[type[Exception], ...] = (
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoModel,
    _state.NotImplemented,
    _state.RuntimeException,
)
"""What a session raises when it is opened or run."""

NODE, KERNEL = "Node", "_kernel_time"
"""In a profile, the category of a node's events, and the suffix of the name of the event that times the node's computation."""

BLOCKED = "_nchwc"
"""Suffix of the name of a node that onnxruntime has moved to its blocked layout of channels."""

FUSED = "Fused"
"""Prefix of the name of an operator into which onnxruntime has fused others, such as FusedConv."""

TOOL_LOGGERS = ("", "onnxruntime.quantization.shape_inference", "onnxruntime.tools.symbolic_shape_infer")
"""Loggers to which the tools for quantisation and float16 write; "" is the root."""


def convert_to_float16(model: Any) -> Any:
    """Return an onnx.ModelProto with weights and arithmetic in float16, input and output still float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = convert_float_to_float16(model, keep_io_types=True)
    OnnxModel(converted).topological_sort()  # the converter puts the casts of the input last
    return converted
