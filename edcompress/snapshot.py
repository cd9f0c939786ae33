"""Training state on disk without pickles: tensors in one safetensors file, everything else as JSON in its header.

A checksum covers both, so that a file that a broken disk changed is told from one to go on from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from edcompress.digests import digest_of
from edcompress.errors import CheckpointError
from edcompress.networks.checkpoints import save_tensors


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
