"""safetensors files: weights, and the checkpoints of unfinished runs.

A checkpoint holds its tensors as safetensors, and everything else as JSON in the header; nothing is a pickle. A checksum covers both, so
that a file changed by a broken disk is not resumed from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edcompress.core.errors import CheckpointError, StorageError, WeightsError, first_line
from edcompress.core.system.files import replacing, scratch_beside
from edcompress.core.system.hashing import digest_of

LONGEST_HEADER = 10_000_000
"""Bytes of JSON in a safetensors header or shard index; a network of a thousand layers has 300 000."""

SAFETENSORS = b"\0\0{"
"""Bytes at offset 6 of a safetensors file: the end of a header length below 2**48, and the start of the header, which is JSON."""


def save_checkpoint(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, tensors and plain values, completely or not at all.

    Raises:
        StorageError: The file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(tree, tensors))
    save_tensors(path, tensors, {"tree": text, "checksum": _checksum(text, tensors)})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the tree that `save_checkpoint` wrote, its tensors on the CPU.

    Raises:
        CheckpointError: The file is damaged, or `save_checkpoint` did not write it.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a file")  # opening a pipe would wait for its other end
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _checksum(metadata["tree"], tensors) != metadata["checksum"]:
                raise ValueError("checksum mismatch")
            tree = _unpack(json.loads(metadata["tree"]), tensors)
        if not isinstance(tree, dict):
            raise ValueError("its tree is not a mapping")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not the checkpoint of a run, or is damaged ({error}); start over with --force"
        ) from error
    return tree


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    named = (part for name in sorted(tensors) for part in (name, tensors[name]))
    return digest_of([text, *named], size=16).hex()


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn dicts into lists of pairs, which keeps integer keys, and tensors into references."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_pack(item, tensors) for item in value]}
    return {"value": value}


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dict" in value:
        return {key: _unpack(item, tensors) for key, item in value["dict"]}
    if "list" in value:
        return [_unpack(item, tensors) for item in value["list"]]
    return value["value"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, completely or not at all.

    Args:
        path: The file to write or replace.
        tensors: By name, on any device; those that share memory are each written in full.
        metadata: Texts for the header.

    Raises:
        StorageError: The file cannot be written.
    """
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    try:
        with replacing(path) as part, scratch_beside(part) as folder:
            safetensors.torch.save_file(own, folder / path.name, dict(metadata) if metadata else None)
            _order_metadata(folder / path.name)
            os.replace(folder / path.name, part)
    except SafetensorError as error:
        raise StorageError(f"{path} cannot be written: {error}; make room on that disk") from error


def _order_metadata(path: Path) -> None:
    """Sort the metadata in place, so that equal content makes equal bytes: the library writes it in a random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        if len(text) != length:
            raise ValueError(f"{path}: its header has {len(text)} bytes once sorted, and {length} before")
        file.seek(8)
        file.write(text)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts in the header of a safetensors file.

    Raises:
        WeightsError: The file cannot be read as a safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as a safetensors file: {first_line(error)}") from error
