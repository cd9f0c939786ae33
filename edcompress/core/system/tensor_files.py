"""Training state on disk without pickles: tensors in one safetensors file, everything else as JSON in its header.

A checksum covers both, so that a file that a broken disk changed is told from one to go on from.
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

from edcompress.core.errors import CheckpointError, StorageError, first_line
from edcompress.core.system.files import replacing, scratch_beside
from edcompress.core.system.hashing import digest_of

LONGEST_HEADER = 10_000_000
"""Bytes of JSON before safetensors' tensors or about them; a network of a thousand layers has 300 000."""


# At offset 6: the end of a header length below 2**48, and the header, which is JSON.
SAFETENSORS = b"\0\0{"


def save_snapshot(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, tensors and plain values atomically; StorageError where it cannot be written."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(tree, tensors))
    save_tensors(path, tensors, {"tree": text, "checksum": _checksum(text, tensors)})


def load_snapshot(path: Path) -> dict[str, Any]:
    """The tree that `save_snapshot` wrote, tensors on the CPU; CheckpointError for a file that it did not write."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")  # opening a pipe would wait for its other end
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _checksum(metadata["tree"], tensors) != metadata["checksum"]:
                raise ValueError("its checksum is another")
            tree = _unpack(json.loads(metadata["tree"]), tensors)
        if not isinstance(tree, dict):
            raise ValueError("its tree is no mapping")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no snapshot of a run, or damaged ({error}); start over with --force"
        ) from error
    return tree


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    named = (part for name in sorted(tensors) for part in (name, tensors[name]))
    return digest_of([text, *named], size=16).hex()


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Dicts become lists of pairs, so that integer keys survive; tensors become references."""
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
    """Writes a safetensors file that is complete or not there at all; tensors that share memory are written each.

    StorageError where it cannot be written.
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
    """Have equal tensors and metadata make equal bytes: the library writes metadata in another order each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        assert len(text) == length, "JSON of the same values has the same length"
        file.seek(8)
        file.write(text)


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors; CheckpointError where it is none."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as a safetensors file: {first_line(error)}") from error
