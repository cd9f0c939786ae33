"""Export a network to one ONNX file, whose opset, batch dimension and loadability are checked before the file exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edcompress.core.errors import EdcompressError
from edcompress.core.recipe.deployment import Batch
from edcompress.core.system.files import replacing
from edcompress.core.system.quiet import EXPORTERS, cause_of, first_lines, quiet
from edcompress.networks.modes import on_cpu
from edcompress.networks.outputs import ChosenOutputs, with_chosen_outputs

WRAPPED = "network."
"""The start of the names of weights in `ChosenOutputs`."""

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
FLUSHED_KEY = "edcompress.denormals_flushed"
TINY = 1e-30  # dead channels decay towards denormals, which CPUs multiply many times slower than zero
OLDEST_USEFUL_IR = 10  # onnxruntime 1.23, the oldest that is declared, loads up to 11


def export_onnx(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int,
    metadata: Mapping[str, str],
    batch: Batch = "dynamic",
    output: str | None = None,
) -> None:
    """Write a network as an ONNX file in fp32: input "images" [batch, ...], output "logits" [batch, classes].

    A network with several outputs, none of which is chosen, has them under their own names.

    Args:
        network: The network, on any device and in any mode; it stays as it is.
        example: Images [N, ...] like those that the network takes.
        path: The file to write.
        opset: Version of ONNX's operators.
        metadata: Metadata of the file.
        batch: Images per call; "dynamic" leaves the number open.
        output: Which output counts (`model.output`).

    Raises:
        EdcompressError: The exporter fails, or its model is not as requested; `path` is as it was.
    """
    frozen = on_cpu(network)
    flushed = flush_denormals(frozen)
    model = to_onnx(frozen, example, opset, batch, output)
    # Folding a batch norm into its convolution can multiply two small numbers into a new denormal.
    flushed += _flush_initializers(model)
    write_model(model, path, {**metadata, FLUSHED_KEY: str(flushed)})


def write_model(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    """Check and write a model with this metadata, no traces of this machine, and an IR version that old runtimes load.

    Raises:
        EdcompressError: The model is not valid; `path` is as it was.
    """
    _strip_traces(model)
    helper.set_model_props(model, dict(metadata))
    _drop_unused_domains(model)
    _lower_ir_version(model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise EdcompressError(f"{path.name} would be an invalid ONNX model: {first_lines(error)}") from error
    with replacing(path) as part:
        onnx.save_model(model, str(part), format="protobuf")


@torch.no_grad()
def flush_denormals(network: nn.Module) -> int:
    """Set every weight with 0 < |w| < 1e-30 to zero, in place, and return how many there were."""
    flushed = 0
    for weight in network.parameters():
        tiny = (weight != 0) & (weight.abs() < TINY)
        flushed += int(tiny.sum())
        weight[tiny] = 0
    return flushed


def _images(example: Tensor, count: int) -> Tensor:
    """Repeat the example [N, ...] to images [count, ...], fp32 on the CPU."""
    repeats = -(-count // len(example))
    return example.repeat(repeats, *[1] * (example.ndim - 1))[:count].detach().to("cpu", torch.float32).contiguous()


def to_onnx(
    network: nn.Module, example: Tensor, opset: int, batch: Batch = "dynamic", output: str | None = None
) -> onnx.ModelProto:
    """Return the ONNX model of a network on the CPU in eval mode, as the exporter makes it.

    Args:
        network: The network.
        example: Images [N, ...] like those that the network takes.
        opset: Version of ONNX's operators.
        batch: Images per call; "dynamic" leaves the number open.
        output: Which output counts (`model.output`).

    Raises:
        EdcompressError: The exporter fails, or its model is not as requested.
    """
    symbolic = batch == "dynamic"
    images = _images(example, 2 if symbolic else int(batch))  # torch.export fixes a dimension that it sees as 1
    try:
        with quiet(*EXPORTERS), FlatAttention():
            exported = with_chosen_outputs(network, images, output)
            names = exported.names if isinstance(exported, ChosenOutputs) else [OUTPUT]
            program = torch.onnx.export(
                exported,
                (images,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=names,
                dynamic_shapes=({0: torch.export.Dim(BATCH)},) if symbolic else None,
                external_data=False,
                verbose=False,
            )
            assert program is not None  # dynamo=True always returns a program
            model = program.model_proto
    except Exception as error:  # the exporter runs the network and raises whatever that raises
        raise EdcompressError(f"{type(network).__name__} cannot be exported to ONNX: {cause_of(error)}") from error
    if exported is not network:
        _drop_prefix(model.graph)
    _verify(model, opset, batch, names)
    return model


def _drop_prefix(graph: onnx.GraphProto) -> None:
    """Name weights as the network does, not as the module around it."""
    names = {tensor.name: tensor.name.removeprefix(WRAPPED) for tensor in graph.initializer}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


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
    """Drop the exporter's Python stack traces, which name files of this machine and count towards the model's size."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _lower_ir_version(model: onnx.ModelProto) -> None:
    """Set the oldest IR version that the opset allows, from 10 on, so that the oldest declared onnxruntime loads the file."""
    needed = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = min(model.ir_version, OLDEST_USEFUL_IR)
    model.ir_version = max(model.ir_version, needed)


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """Drop the domains that no node is of: onnxruntime's tools declare every domain they know, and readers refuse versions they do not."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _verify(model: onnx.ModelProto, opset: int, batch: Batch = "dynamic", outputs: Sequence[str] = (OUTPUT,)) -> None:
    produced = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if produced != opset:
        raise EdcompressError(
            f"ONNX opset {opset} was requested, but the exporter could only produce {produced}; use --opset {produced}"
        )
    _verify_interface(model.graph, batch, outputs)


def _verify_interface(graph: onnx.GraphProto, batch: Batch, outputs: Sequence[str]) -> None:
    names = [[value.name for value in side] for side in (graph.input, graph.output)]
    if names != [[INPUT], list(outputs)]:
        raise EdcompressError(
            f"the ONNX model must have the input {INPUT} and the outputs {', '.join(outputs)}; it has {names[0]} and {names[1]}"
        )
    for value in (*graph.input, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        fixed = dimensions[0].dim_value if dimensions else "missing"
        if batch == "dynamic" and (not dimensions or not dimensions[0].dim_param):
            raise EdcompressError(
                f"the batch dimension of {value.name!r} is {fixed} in the ONNX model, not symbolic; "
                "the network's forward fixes the number of images, as len(x), int(x.shape[0]) and loops over images do; write x.shape[0], "
                "or fix the batch with --batch N"
            )
        if batch not in ("dynamic", fixed):
            raise EdcompressError(f"the batch dimension of {value.name!r} is {fixed} in the ONNX model, not {batch}")


class FlatAttention(TorchFunctionMode):
    """A mode in which attention [..., N, d] is computed as attention [B, heads, N, d], which is the same."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].ndim != 4:
            return _flattened(*args, **kwargs)
        return func(*args, **kwargs)


def _flattened(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any
) -> Tensor:
    lead = query.shape[:-3]
    if attn_mask is not None and attn_mask.ndim > 3:
        attn_mask = attn_mask.expand(*lead, *attn_mask.shape[-3:])
    mask = attn_mask if attn_mask is None or attn_mask.ndim < 3 else _in_four(attn_mask)
    attended = F.scaled_dot_product_attention(_in_four(query), _in_four(key), _in_four(value), mask, *rest, **options)
    # The exporter's own form of attention lays its result out differently, and what follows may have been traced as a view.
    return attended.clone(memory_format=torch.contiguous_format).reshape(*query.shape[:-1], value.shape[-1])


def _in_four(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, *tensor.shape[-3:])
