"""Check where the tensors of an ONNX file are read from, before any runtime opens it: only from files beside it.

Some runtimes read whatever path such a tensor names, and take some names for addresses in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from edcompress.core.errors import InputError, first_line
from edcompress.core.recipe.deployment import MOST_ONNX_BYTES
from edcompress.core.system.files import special_kind


def require_own_data(path: Path) -> None:
    """Raise InputError where a file is not an ONNX model, or reads a tensor from anything but an ordinary file beside it."""
    if (size := path.stat().st_size) > MOST_ONNX_BYTES:
        raise InputError(
            f"{path}: has {size} bytes, and an ONNX file has less than 2 GiB; keep its weights in a file beside it"
        )
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InputError(f"{path}: onnxruntime cannot load it as an ONNX model: {first_line(error)}") from error
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            _require_beside(path, tensor)


def _tensors(message: Message) -> Iterator[Any]:
    """Yield every tensor in a message: of initializers, attributes, subgraphs, functions and training."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _tensors(part)


def _require_beside(path: Path, tensor: Any) -> None:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    what = f"{path}: tensor {tensor.name!r} is read from {location!r}"
    pure, there = PurePosixPath(location), path.parent / location
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location:
        raise InputError(
            f"{what}, which is not a file in the model's own folder; refused: save the model with its weights beside it"
        )
    for part in (there, *there.parents[: len(pure.parts) - 1]):
        if kind := special_kind(part):
            raise InputError(f"{what}, and {part} is a {kind}; put the file itself beside the model")
    if not there.is_file():
        raise InputError(f"{what}, and there is no such file; copy it beside the model")
