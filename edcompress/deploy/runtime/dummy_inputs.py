"""Inputs to time any ONNX model with. Imports no torch: the latency worker runs it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edcompress.core.errors import InputError
from edcompress.deploy.runtime.sessions import ModelInput

_FLOATS = {"float": "float32", "float16": "float16", "double": "float64"}  # numpy's names of ONNX's
_ONES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

Sizes = Sequence[int | str | None]


def make_inputs(inputs: Sequence[ModelInput], path: Path, batch_size: int) -> dict[str, NDArray[Any]]:
    """Return a tensor for each input: normal noise, always the same; ones for whole numbers, indices and masks.

    The batch is the first size of the first input, wherever its symbol appears, and any symbol that is the first size of another input.

    Args:
        inputs: The inputs of a model.
        path: The model's file, for messages.
        batch_size: Images per call.

    Raises:
        InputError: A size other than the batch is symbolic, the batch size is fixed at another number, or an input is not a tensor of
            numbers.
    """
    random = np.random.default_rng(0)
    batch = next((value.shape[0] for value in inputs if value.shape), None)
    if isinstance(batch, int) and batch != batch_size:
        raise InputError(
            f"{path}: its batch size is fixed at {batch}, but benchmark.batch_size is {batch_size}; "
            f"measure it with --batch-size {batch}"
        )
    feed: dict[str, NDArray[Any]] = {}
    for value in inputs:
        sizes = _sizes(value.shape, batch, batch_size)
        if None in sizes:
            raise InputError(_open_sizes(path, value, sizes))
        feed[value.name] = _tensor(value, path, random, [size for size in sizes if size is not None])
    return feed


def _sizes(shape: Sizes, batch: int | str | None, batch_size: int) -> list[int | None]:
    """Return the shape in numbers; None where a size is neither fixed nor the batch."""
    return [
        size if isinstance(size, int) else batch_size if position == 0 or (size and size == batch) else None
        for position, size in enumerate(shape)
    ]


def _open_sizes(path: Path, value: ModelInput, sizes: Sequence[int | None]) -> str:
    wish = ",".join(str(size or f"SIZE{position}") for position, size in enumerate(sizes))
    names = shlex.join(["--input_name", value.name, "--input_shape", wish, str(path)])
    return (
        f"{path}: input {value.name!r} has shape {list(value.shape)}; only the batch may be symbolic, the first size. "
        f"Fix the others first: python -m onnxruntime.tools.make_dynamic_shape_fixed {names} FIXED.onnx"
    )


def _tensor(value: ModelInput, path: Path, random: np.random.Generator, sizes: Sequence[int]) -> NDArray[Any]:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    if kind in _FLOATS:
        return random.standard_normal(sizes).astype(np.dtype(_FLOATS[kind]))
    if kind in _ONES:
        return np.ones(sizes, np.dtype(kind))
    known = ", ".join((*_FLOATS, *_ONES))
    raise InputError(
        f"{path}: input {value.name!r} is {value.type}, which cannot be made up; only tensors of {known} can"
    )
