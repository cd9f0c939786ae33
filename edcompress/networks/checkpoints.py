"""Weights in, weights out. Nothing is unpickled beyond tensors unless the user asks for it (`--trust-pickle`)."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edcompress.errors import CheckpointError
from edcompress.networks.fitting import load_into
from edcompress.networks.user_code import importable_working_directory

__all__ = ["load_into", "read_state_dict", "save_tensors"]

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema", "state_dict_ema", "net", "network")
"""Keys under which training scripts put the weights."""

EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Keys under which they put the averaged weights."""

INDEX = ".safetensors.index.json"

# A wrapped network (DataParallel, torch.compile) prefixes its keys; compile does so for submodules too.
PREFIX = re.compile(r"^(module\.)+|_orig_mod\.")
# torchvision's own DenseNet files still hold names of before PyTorch 0.4.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
# At offset 6: the end of a header length below 2**48, and the header, which is JSON.
SAFETENSORS = b"\0\0{"


def read_state_dict(path: Path, *, trust_pickle: bool = False, ema: bool = False) -> dict[str, Tensor]:
    """Float32 (and integer) CPU tensors by plain parameter name; CheckpointError says what is wrong with the file.

    With `ema` the averaged weights of a training checkpoint. A `.safetensors.index.json` stands for the shards that it lists.
    """
    head = _head(path)
    if path.name.endswith(INDEX):
        content: object = _read_shards(path)
    elif head[6:9] == SAFETENSORS:
        content = _read_safetensors(path)
    elif head.startswith((ZIP, PICKLE)):
        content = _read_torch(path, trust_pickle=trust_pickle)
    else:
        what = "is a text file" if head.isascii() else "starts with unknown bytes"
        raise CheckpointError(
            f"{path}: is neither a PyTorch nor a safetensors file: it {what} ({head[:24]!r}); "
            "a failed download and an unresolved Git LFS pointer look like this"
        )
    return _plain(path, _unwrap(_averaged(path, content) if ema else content))


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


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give the weights file inside it")
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file{_near(path)}")
    try:
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
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is a damaged or truncated safetensors file: {error}") from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards that lie beside the index (the layout of Hugging Face's `save_pretrained`)."""
    try:
        shard_of: dict[str, str] = dict(json.loads(index.read_text())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index}: is no index of safetensors shards: {type(error).__name__}: {error}") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shard_of.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names a shard outside its own folder: {name!r}")
        _head(index.parent / name)
        tensors |= _read_safetensors(index.parent / name)
    if lacking := sorted(shard_of.keys() - tensors.keys()):
        raise CheckpointError(
            f"{index}: the shards hold no {lacking[0]}, nor {len(lacking) - 1} more; a shard is of another model"
        )
    return tensors


def _averaged(path: Path, content: object) -> object:
    if isinstance(content, Mapping):
        for key in EMA:
            if isinstance(content.get(key), Mapping | nn.Module):
                return content[key]
    raise CheckpointError(f"{path}: holds no averaged weights (none of {', '.join(EMA)}); leave model.ema out")


def _read_torch(path: Path, *, trust_pickle: bool) -> object:
    try:
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
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError, TypeError, IndexError) as error:
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path}: is a TorchScript archive; save network.state_dict() instead") from error
        raise CheckpointError(f"{path}: is damaged or truncated: {_first_line(error)}") from error
    return _unpickle(path)


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
    if isinstance(content, nn.Module):
        return content.state_dict()
    if not isinstance(content, Mapping):
        return content
    inner = (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping | nn.Module))
    wrapped = next(inner, None)
    return content if wrapped is None else _unwrap(wrapped)


def _plain(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state_dict (tensors by parameter name)")
    named = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not named:
        keys = ", ".join(str(key) for key in list(content)[:8]) or "nothing"
        raise CheckpointError(f"{path}: holds no tensors by name (top-level keys: {keys}); save network.state_dict()")
    plain = {_plain_name(key): _plain_tensor(tensor) for key, tensor in named.items() if key != "n_averaged"}
    if len(plain) < len(named) - ("n_averaged" in named):
        raise CheckpointError(f"{path}: holds some parameters twice, with and without the prefix 'module.'")
    return plain


def _plain_name(key: str) -> str:
    while (shorter := PREFIX.sub("", key)) != key:
        key = shorter
    return OLD_DENSENET.sub(r"\1\2.", key)


def _plain_tensor(tensor: Tensor) -> Tensor:
    half = tensor.is_floating_point() and tensor.element_size() < 4
    return tensor.detach().to(torch.float32) if half else tensor.detach()
