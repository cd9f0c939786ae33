"""Training state on disk without pickles: tensors in one safetensors file, everything else as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from edcompress.errors import CheckpointError
from edcompress.networks.checkpoints import save_tensors


def save_snapshot(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, tensors and plain values atomically."""
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(tree, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, {"tree": json.dumps(skeleton)})


def load_snapshot(path: Path) -> dict[str, Any]:
    """The tree that `save_snapshot` wrote, tensors on the CPU; CheckpointError for a file that it did not write."""
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads((file.metadata() or {})["tree"])
            tree = _unpack(skeleton, file)
        if not isinstance(tree, dict):
            raise ValueError("its tree is no mapping")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no snapshot of a run, or damaged ({error}); start over with --force"
        ) from error
    return tree


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


def _unpack(value: Any, file: Any) -> Any:
    if "tensor" in value:
        return file.get_tensor(value["tensor"])
    if "dict" in value:
        return {key: _unpack(item, file) for key, item in value["dict"]}
    if "list" in value:
        return [_unpack(item, file) for item in value["list"]]
    return value["value"]
