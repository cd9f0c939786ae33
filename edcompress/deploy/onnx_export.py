"""A network as one ONNX file whose opset, batch dimension and loadability are checked before the file exists."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edcompress.deploy.flat_attention import FlatAttention
from edcompress.errors import EdcompressError
from edcompress.files import replacing
from edcompress.networks.modes import on_cpu

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
FLUSHED_KEY = "edcompress.denormals_flushed"
TINY = 1e-30  # dead channels decay towards denormals, which CPUs multiply many times slower than zero
OLDEST_USEFUL_IR = 10  # what onnxruntime 1.23, the oldest we declare, loads up to 11 of
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")


def export_onnx(network: nn.Module, example: Tensor, path: Path, *, opset: int, metadata: Mapping[str, str]) -> None:
    """Write `path`: fp32, input "images" [batch, ...] like `example` [N, ...], output "logits" [batch, classes].

    Raises EdcompressError, and leaves `path` as it was, when the exporter fails or its model is not as asked.
    """
    frozen = on_cpu(network)
    flushed = flush_denormals(frozen)
    model = to_onnx(frozen, example, opset)
    # Folding a batch norm into its convolution can multiply two small numbers into a new denormal.
    flushed += _flush_initializers(model)
    _strip_traces(model)
    helper.set_model_props(model, {**metadata, FLUSHED_KEY: str(flushed)})
    _lower_ir_version(model)
    _verify(model, opset)
    with replacing(path) as part:
        onnx.save_model(model, str(part), format="protobuf")


@torch.no_grad()
def flush_denormals(network: nn.Module) -> int:
    """Set every weight with 0 < |w| < 1e-30 to zero, in place; returns how many there were."""
    flushed = 0
    for weight in network.parameters():
        tiny = (weight != 0) & (weight.abs() < TINY)
        flushed += int(tiny.sum())
        weight[tiny] = 0
    return flushed


def _two_images(example: Tensor) -> Tensor:
    """[2, ...] fp32 on the CPU: torch.export fixes a batch dimension that it sees as 1."""
    two = example[:2] if len(example) > 1 else example.repeat(2, *[1] * (example.ndim - 1))
    return two.detach().to("cpu", torch.float32).contiguous()


def to_onnx(network: nn.Module, example: Tensor, opset: int) -> onnx.ModelProto:
    """What the exporter makes of a network on the CPU in eval mode; EdcompressError, with the cause, where it fails."""
    try:
        with _quiet(), FlatAttention():
            program = torch.onnx.export(
                network,
                (_two_images(example),),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                external_data=False,
                verbose=False,
            )
            assert program is not None  # dynamo=True always returns a program
            return program.model_proto
    except Exception as error:  # the exporter runs the network and raises whatever that raises
        cause = _root_cause(error)
        raise EdcompressError(
            f"{type(network).__name__} cannot be exported to ONNX: {type(cause).__name__}: {_first_lines(cause)}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's progress prints, and its warnings and log lines about its own internals.

    Nothing is lost: what those would hint at (opset, shapes, batch dimension) `_verify` checks on the model itself.
    """
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_lines(error: BaseException, limit: int = 4) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:limit]) or "no message"


def _flush_initializers(model: onnx.ModelProto) -> int:
    flushed = 0
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        tiny = (values != 0) & (np.abs(values) < TINY)
        if tiny.any():
            tensor.CopyFrom(numpy_helper.from_array(np.where(tiny, np.float32(0), values), tensor.name))
            flushed += int(tiny.sum())
    return flushed


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's Python stack traces: they name files of this machine, and are no part of the model's size."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _lower_ir_version(model: onnx.ModelProto) -> None:
    """The oldest IR version the opset allows, so that the oldest onnxruntime we declare loads the file."""
    needed = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = min(model.ir_version, OLDEST_USEFUL_IR)
    model.ir_version = max(model.ir_version, needed)


def _verify(model: onnx.ModelProto, opset: int) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise EdcompressError(f"the exporter wrote an invalid ONNX model: {_first_lines(error)}") from error
    produced = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if produced != opset:
        raise EdcompressError(
            f"asked for ONNX opset {opset}, but the exporter could only produce {produced}; use --opset {produced}"
        )
    _verify_interface(model.graph)


def _verify_interface(graph: onnx.GraphProto) -> None:
    names = [[value.name for value in side] for side in (graph.input, graph.output)]
    if names != [[INPUT], [OUTPUT]]:
        raise EdcompressError(f"a classifier has one input and one output; this network has {names[0]} and {names[1]}")
    for value in (*graph.input, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if not dimensions or not dimensions[0].dim_param:
            fixed = dimensions[0].dim_value if dimensions else "missing"
            raise EdcompressError(
                f"the batch dimension of {value.name!r} is {fixed} in the ONNX model, not symbolic; "
                "the network's forward must not depend on the number of images"
            )
