"""Weights in, weights out. Nothing is unpickled beyond tensors unless the user asks for it (`--trust-pickle`)."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import mmap
import os
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edcompress.errors import CheckpointError
from edcompress.networks.fitting import load_into
from edcompress.networks.limits import bounded_memory
from edcompress.networks.user_code import importable_working_directory

__all__ = ["load_into", "read_state_dict", "save_tensors"]

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema", "state_dict_ema", "net", "network")
"""Keys under which training scripts put the weights."""

EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Keys under which they put the averaged weights."""

INDEX = ".safetensors.index.json"
LONGEST_HEADER = 10_000_000
"""Bytes of JSON before safetensors' tensors or about them; a network of a thousand layers has 300 000."""

SPARE_MEMORY = 2**30
"""Bytes that a pickle may take beyond four times its file (half precision becomes float32, and is there in both)."""

DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8,
          torch.int8, torch.int16, torch.int32, torch.int64}  # fmt: skip
MOST_WRAPPERS = 8

# A wrapped network (DataParallel, torch.compile) prefixes its keys; compile does so for submodules too.
PREFIX = re.compile(r"^(module\.)+|_orig_mod\.")
# torchvision's own DenseNet files still hold names of before PyTorch 0.4.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
# How a pickle names a function that turns text into bytes, by codecs of which one takes minutes for a page.
ENCODE = b"c_codecs\nencode\n"
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
# At offset 6: the end of a header length below 2**48, and the header, which is JSON.
SAFETENSORS = b"\0\0{"


def read_state_dict(path: Path, *, trust_pickle: bool = False, ema: bool = False) -> dict[str, Tensor]:
    """Float32 (and integer) CPU tensors by plain parameter name; CheckpointError says what is wrong with the file.

    With `ema` the averaged weights of a training checkpoint. A `.safetensors.index.json` stands for the shards that it lists.
    """
    head, most = _head(path), 4 * path.stat().st_size + SPARE_MEMORY
    bounded = head.startswith((ZIP, PICKLE)) and not trust_pickle
    try:
        with bounded_memory(most) if bounded else nullcontext():
            content = _read(path, head, trust_pickle=trust_pickle)
            return _plain(path, _unwrap(_averaged(path, content) if ema else content))
    except MemoryError as error:
        raise CheckpointError(
            f"{path}: asks for more than {most >> 20} MiB of memory, which the tensors in a file of its size do not need"
        ) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file that is complete or not there at all; tensors that share memory are written each."""
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        safetensors.torch.save_file(own, part, dict(metadata) if metadata else None)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path, head: bytes, *, trust_pickle: bool) -> object:
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if head[6:9] == SAFETENSORS:
        return _read_safetensors(path)
    if head.startswith((ZIP, PICKLE)):
        return _read_torch(path, trust_pickle=trust_pickle)
    what = "is a text file" if head.isascii() else "starts with unknown bytes"
    raise CheckpointError(
        f"{path}: is neither a PyTorch nor a safetensors file: it {what} ({head[:24]!r}); "
        "a failed download and an unresolved Git LFS pointer look like this"
    )


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: is a folder; give the weights file inside it")
        if not path.exists():
            raise CheckpointError(f"{path}: there is no such file{_near(path)}")
        if not path.is_file():
            raise CheckpointError(f"{path}: is a device, pipe or socket; copy the weights to a file first")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path}: is empty (0 bytes); the download or the copy failed")
    return head


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
        raise CheckpointError(f"{path}: is a damaged or truncated safetensors file: {error}") from error


def _require_one_each(path: Path) -> None:
    """The format's library takes the last of two tensors of one name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(_short(path, length))
    try:
        json.loads(header, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is a damaged or truncated safetensors file: {_first_line(error)}") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        (twin, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twin!r} stands twice in its header")
    return found


def _short(path: Path, length: int) -> int:
    if length > LONGEST_HEADER:
        raise CheckpointError(f"{path}: its header claims {length} bytes; one of weights has {LONGEST_HEADER} at most")
    return length


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards that lie beside the index (the layout of Hugging Face's `save_pretrained`)."""
    _short(index, index.stat().st_size)
    try:
        shard_of: dict[str, str] = dict(json.loads(index.read_text())["weight_map"])
        shards = sorted(set(shard_of.values()))
        outside = [name for name in shards if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index}: is no index of safetensors shards: {type(error).__name__}: {error}") from error
    if outside:
        raise CheckpointError(f"{index}: names a shard outside its own folder: {outside[0]!r}")
    tensors: dict[str, Tensor] = {}
    for name in shards:
        _head(index.parent / name)
        tensors |= _read_safetensors(index.parent / name)
    if lacking := sorted(shard_of.keys() - tensors.keys()):
        raise CheckpointError(
            f"{index}: the shards hold no {lacking[0]}, nor {len(lacking) - 1} more; a shard is of another model"
        )
    return tensors


def _averaged(path: Path, content: object) -> object:
    items = _items(content)
    for key in EMA:
        if isinstance(items.get(key), Mapping | nn.Module):
            return items[key]
    raise CheckpointError(f"{path}: holds no averaged weights (none of {', '.join(EMA)}); leave model.ema out")


def _read_torch(path: Path, *, trust_pickle: bool) -> object:
    try:
        if not trust_pickle:
            _require_nothing_grows(path)
        # Namespace is data alone, and reference training scripts put their arguments next to the weights.
        # A file, not its path: torch.load would go by the path's suffix.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # torch warns of newer pickle protocols that it "might" not read; it then reads them, or raises.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content: object = torch.load(file, map_location="cpu", weights_only=True)
        return content
    except pickle.UnpicklingError as error:
        if _is_cut_short(path, str(error)):
            raise CheckpointError(f"{path}: is truncated; copy or download it again") from error
        if not trust_pickle:
            raise CheckpointError(_holds_code(path, str(error))) from error
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # whatever torch and Python say of nonsense in place of a pickle
        if "can't allocate memory" in str(error):
            raise MemoryError from error
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path}: is a TorchScript archive; save network.state_dict() instead") from error
        raise CheckpointError(f"{path}: is damaged or truncated: {_first_line(error)}") from error
    return _unpickle(path)


def _require_nothing_grows(path: Path) -> None:
    """Refuses what torch.load allows and of which a small file makes hours or gigabytes: compression, and encoding of text."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(ENCODE) >= 0:
            raise CheckpointError(_holds_code(path, "GLOBAL _codecs.encode"))
        if content[: len(ZIP)] != ZIP:
            return
        with zipfile.ZipFile(file) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            if packed and not any(name.endswith("/constants.pkl") for name in archive.namelist()):  # TorchScript's mark
                raise CheckpointError(
                    f"{path}: {packed[0]} in it is compressed, which torch.save never does; unzip, and zip with -0"
                )


def _unpickle(path: Path) -> object:
    """Runs whatever code the file holds; only after the user said so."""
    try:
        with path.open("rb") as file, importable_working_directory():
            content: object = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        raise CheckpointError(
            f"{path}: the pickled object cannot be rebuilt here: {type(error).__name__}: {_first_line(error)}; "
            "run where the code that made it can be imported, or save network.state_dict()"
        ) from error
    return content


def _is_cut_short(path: Path, text: str) -> bool:
    return "truncated" in text or "Ran out of input" in text or path.stat().st_size < len(PICKLE) + 1


def _holds_code(path: Path, text: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", text)
    what = f"a pickled object or code ({found[1]})" if found else "a pickled object or code"
    return (
        f"{path}: holds {what}, not only tensors, and loading it would run code from the file; nothing was run. "
        "Save the weights alone, torch.save(network.state_dict(), ...), or add --trust-pickle if you trust its origin"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _unwrap(content: object) -> object:
    """The innermost mapping under the keys that training scripts use."""
    for _ in range(MOST_WRAPPERS):
        items = _items(content)
        inner = (items[key] for key in WRAPPERS if isinstance(items.get(key), Mapping | nn.Module))
        wrapped = next(inner, None)
        if wrapped is None:
            break
        content = wrapped
    return content


def _items(content: object) -> dict[Any, Any]:
    """What a mapping or module holds; nothing of anything else. A pickle can put anything in place of its dict's own methods."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if isinstance(content, dict):
        return dict(dict.items(content))
    return dict(content) if isinstance(content, Mapping) else {}


def _plain(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping | nn.Module):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state_dict (tensors by parameter name)")
    items = _items(content)
    named = {
        key: Tensor.detach(value) for key, value in items.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not named:
        keys = (
            ", ".join(key[:60] if isinstance(key, str) else type(key).__name__ for key in list(items)[:8]) or "nothing"
        )
        raise CheckpointError(f"{path}: holds no tensors by name (top-level keys: {keys}); save network.state_dict()")
    most = math.inf if path.name.endswith(INDEX) else path.stat().st_size
    for key, tensor in named.items():
        _require_values(f"{path}: {key}", tensor, most)
    plain = {_plain_name(key): _plain_tensor(tensor) for key, tensor in named.items() if key != "n_averaged"}
    if len(plain) < len(named) - ("n_averaged" in named):
        raise CheckpointError(f"{path}: holds some parameters twice, with and without the prefix 'module.'")
    return plain


def _require_values(name: str, tensor: Tensor, most: float) -> None:
    """`most` is how many bytes there can be."""
    if tensor.is_meta:
        raise CheckpointError(f"{name} has a shape and no values; it was saved from the meta device")
    if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
        raise CheckpointError(f"{name} is of {kind}; save the weights as dense float32, before any quantising")
    if (size := tensor.numel() * tensor.element_size()) > most:
        raise CheckpointError(
            f"{name} claims {tensor.numel()} values ({size} bytes), and the file has {most} bytes in all"
        )


def _plain_name(key: str) -> str:
    while (shorter := PREFIX.sub("", key)) != key:
        key = shorter
    return OLD_DENSENET.sub(r"\1\2.", key)


def _plain_tensor(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
