"""Which result of a half-precision ONNX file leaves the range of float16."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from edcompress.deploy.runtime.half_precision import UNROUNDED, round_float16
from edcompress.deploy.runtime.parity import batch_limit, compute_outputs
from edcompress.deploy.runtime.sessions import open_session

LARGEST, SMALLEST = 65504.0, 2.0**-14
"""The largest number of float16, and the smallest that has all of its eleven bits."""


def find_out_of_range(path: Path, images: Tensor) -> str:
    """Describe the first float16 result of a file that on images [N, C, H, W] is too large for float16, or too small as a whole.

    The description is "" where there is none, as of a file without float16.
    """
    model = round_float16(path)
    if model is None:
        return ""
    results = {name: node for node in model.graph.node for name in node.output if name.endswith(UNROUNDED)}
    largest = _largest(model, list(results), images).tolist()
    for (name, node), reached in zip(results.items(), largest, strict=True):
        called = f"{node.op_type} {name.removesuffix(UNROUNDED)}{_behind(model, node)}"
        if not reached <= LARGEST:
            return f"{called} reaches {reached:.3g}, and float16 ends at {LARGEST:.0f}"
        if 0 < reached < SMALLEST:
            return f"{called} reaches {reached:.3g}, and float16 loses bits below {SMALLEST:.2g}"
    return ""


def _largest(model: onnx.ModelProto, names: list[str], images: Tensor) -> NDArray[np.float32]:
    """Return the largest magnitude [names] of each of the model's values over the images."""
    for number, name in enumerate(names):
        ends = [name, f"magnitude{number}", f"largest{number}"]
        model.graph.node.append(helper.make_node("Abs", ends[:1], ends[1:2]))
        model.graph.node.append(helper.make_node("ReduceMax", ends[1:2], ends[2:], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(ends[2], TensorProto.FLOAT, []))
    with tempfile.TemporaryDirectory() as folder:
        onnx.save_model(model, str(Path(folder) / "watched.onnx"))
        opened = open_session(Path(folder) / "watched.onnx", torch.get_num_threads())
    batches = torch.split(images, batch_limit(opened))
    found: NDArray[np.float32] = np.fmax.reduce([compute_outputs(opened, batch)[1:] for batch in batches])
    return found


def _behind(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """Name the nearest layer with weights that a node's inputs come from; "" for none."""
    makers = {name: other for other in model.graph.node for name in other.output}
    weights = {tensor.name for tensor in model.graph.initializer}
    near, seen = [node], set[str]()
    for one in near:
        if layer := next((name.rpartition(".")[0] for name in one.input if name in weights and "." in name), ""):
            return f" (behind layer {layer})"
        new = [name for name in one.input if name in makers and name not in seen]
        seen |= set(new)
        near += [makers[name] for name in new]
    return ""
