"""Read weight files of any origin. Only tensors are unpickled, unless the user allows more (`--trust-pickle`)."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edcompress.core.errors import WeightsError, first_line
from edcompress.core.system.files import require_utf8
from edcompress.core.system.tensor_files import LONGEST_HEADER, SAFETENSORS
from edcompress.networks.load_weights import plain_name
from edcompress.networks.safe_pickles import PICKLE, ZIP, bounded_memory, read_torch

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema", "state_dict_ema", "net", "network")
"""Keys under which training scripts save the weights."""

EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Keys under which they save the averaged weights."""

INDEX = ".safetensors.index.json"
"""The suffix of an index of shards."""

SPARE_MEMORY = 2**30
"""Bytes that a pickle may take beyond four times its file (half precision is held both as it is and as float32)."""

DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8,
          torch.int8, torch.int16, torch.int32, torch.int64}  # fmt: skip
MOST_WRAPPERS = 8

SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".safetensors", ".json", ".tar")
"""Endings of files of weights; other names may be meant as those of networks."""


def read_state_dict(path: Path, *, trust_pickle: bool = False, ema: bool = False) -> dict[str, Tensor]:
    """Read the weights in a file.

    Args:
        path: A PyTorch or safetensors file, or a `.safetensors.index.json` for the shards that it lists.
        trust_pickle: Unpickle anything, which may run code from the file.
        ema: Return the averaged weights of a file that holds both.

    Returns:
        float32 (and integer) tensors on the CPU, by parameter name without the prefixes of wrappers.

    Raises:
        WeightsError: The file cannot be read, or holds no such weights.
    """
    require_utf8(path)
    head, most = _head(path), 4 * path.stat().st_size + SPARE_MEMORY
    bounded = head.startswith((ZIP, PICKLE)) and not trust_pickle
    try:
        with bounded_memory(most) if bounded else nullcontext():
            content = _read(path, head, trust_pickle=trust_pickle)
            return _plain(path, _unwrap(_averaged(path, content) if ema else content))
    except MemoryError as error:
        raise WeightsError(
            f"{path}: asks for more than {most >> 20} MiB of memory, which the tensors in a file of its size do not need"
        ) from error


def _read(path: Path, head: bytes, *, trust_pickle: bool) -> object:
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if head[6:9] == SAFETENSORS:
        return _read_safetensors(path)
    if head.startswith((ZIP, PICKLE)):
        return read_torch(path, trust_pickle=trust_pickle)
    what = "is a text file" if head.isascii() else "starts with unknown bytes"
    raise WeightsError(
        f"{path}: is neither a PyTorch nor a safetensors file: it {what} ({head[:24]!r}); "
        "a failed download and an unresolved Git LFS pointer look like this"
    )


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise WeightsError(f"{path}: is a folder; give the weights file inside it")
        if not path.exists():
            raise WeightsError(f"{path}: there is no such file{_near(path)}{_by_name(path)}")
        if not path.is_file():
            raise WeightsError(f"{path}: is a device, pipe or socket; copy the weights to a file first")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise WeightsError(f"{path}: is empty (0 bytes); the download or the copy failed")
    return head


def _by_name(path: Path) -> str:
    """Return how weights by name are written, for what may be meant as the name of a network."""
    name = str(path)
    if len(path.parts) != 1 or path.suffix in SUFFIXES:
        return ""
    return f"; weights by name are written torchvision:{name}, timm:{name} or hf:OWNER/NAME"


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f", and no folder {path.parent}"
    near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], 3)
    return f"; {path.parent} has {', '.join(near)}" if near else ""


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _require_one_each(path)
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: is a damaged or truncated safetensors file: {error}") from error


def _require_one_each(path: Path) -> None:
    """Refuse two tensors of one name, of which the format's library takes the last."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(_short(path, length))
    try:
        json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is a damaged or truncated safetensors file: {first_line(error)}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"duplicate name {name!r} in its header")
    return found


def _short(path: Path, length: int) -> int:
    if length > LONGEST_HEADER:
        raise WeightsError(f"{path}: its header claims {length} bytes; that of weights has at most {LONGEST_HEADER}")
    return length


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Return the tensors of all shards beside the index (the layout of Hugging Face's `save_pretrained`)."""
    _short(index, index.stat().st_size)
    try:
        shard_of: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        shards = sorted(set(shard_of.values()))
        outside = [name for name in shards if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{index}: is not an index of safetensors shards: {type(error).__name__}: {error}"
        ) from error
    if outside:
        raise WeightsError(f"{index}: names a shard outside its own folder: {outside[0]!r}")
    tensors: dict[str, Tensor] = {}
    for name in shards:
        _head(index.parent / name)
        tensors |= _read_safetensors(index.parent / name)
    if lacking := sorted(shard_of.keys() - tensors.keys()):
        raise WeightsError(
            f"{index}: the shards hold no {lacking[0]}, nor {len(lacking) - 1} more; a shard belongs to a different model"
        )
    return tensors


def _averaged(path: Path, content: object) -> object:
    items = _items(content)
    for key in EMA:
        if isinstance(items.get(key), Mapping | nn.Module):
            return items[key]
    raise WeightsError(f"{path}: holds no averaged weights (none of {', '.join(EMA)}); drop model.ema")


def _unwrap(content: object) -> object:
    """Return the innermost mapping under the keys that training scripts use."""
    for _ in range(MOST_WRAPPERS):
        items = _items(content)
        inner = (items[key] for key in WRAPPERS if isinstance(items.get(key), Mapping | nn.Module))
        wrapped = next(inner, None)
        if wrapped is None:
            break
        content = wrapped
    return content


def _items(content: object) -> dict[Any, Any]:
    """Return the items of a mapping or module; empty for anything else. A pickle can replace the methods of its dict by anything."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if isinstance(content, dict):
        return dict(dict.items(content))
    return dict(content) if isinstance(content, Mapping) else {}


def _plain(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping | nn.Module):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state_dict (tensors by parameter name)")
    items = _items(content)
    named = {
        key: Tensor.detach(value) for key, value in items.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not named:
        keys = (
            ", ".join(key[:60] if isinstance(key, str) else type(key).__name__ for key in list(items)[:8]) or "nothing"
        )
        raise WeightsError(f"{path}: holds no tensors by name (top-level keys: {keys}); save network.state_dict()")
    most = math.inf if path.name.endswith(INDEX) else path.stat().st_size
    for key, tensor in named.items():
        _require_values(f"{path}: {key}", tensor, most)
    plain = {plain_name(key): _plain_tensor(tensor) for key, tensor in named.items() if key != "n_averaged"}
    if len(plain) < len(named) - ("n_averaged" in named):
        raise WeightsError(f"{path}: holds some parameters twice, with and without the prefix 'module.'")
    return plain


def _require_values(name: str, tensor: Tensor, most: float) -> None:
    """Raise WeightsError for a tensor without values, of an unusual kind, or with more than `most` bytes."""
    if tensor.is_meta:
        raise WeightsError(f"{name} has a shape and no values; it was saved from the meta device")
    if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
        raise WeightsError(f"{name} is of {kind}; save the weights as dense float32, before any quantising")
    if (size := tensor.numel() * tensor.element_size()) > most:
        raise WeightsError(f"{name} claims {tensor.numel()} values ({size} bytes), but the whole file has {most} bytes")


def _plain_tensor(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
