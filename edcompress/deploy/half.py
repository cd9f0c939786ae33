"""An ONNX file in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from edcompress.deploy.onnx_export import first_lines, write_model
from edcompress.deploy.quiet import quiet
from edcompress.errors import EdcompressError


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
