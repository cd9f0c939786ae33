"""An ONNX file that takes pixels as they are decoded, and normalises them itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edcompress.deploy.onnx_export import INPUT, write_model
from edcompress.results import Preprocessing

PIXELS = "pixels"


def with_normalisation(path: Path, output: Path, preprocessing: Preprocessing, metadata: Mapping[str, str]) -> None:
    """Write `output`: `path` behind an input "pixels", uint8 [batch, H, W, C], already resized, as image decoders give it.

    The graph computes (pixels / 255 - mean) / std in the order of operations of `transforms.normalised`, so that logits are the same.
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
