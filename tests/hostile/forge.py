"""Weights files that torch.save would never write: any pickle and any records, in torch's zip format or its old one."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Call:
    """Is pickled as a call of `function` with `arguments`, whose result then gets the attributes of `state`."""

    def __init__(self, function: object, *arguments: object, state: dict[str, object] | None = None) -> None:
        self.reduced = function, arguments, state

    def __reduce__(self) -> Any:
        return self.reduced


@dataclass(frozen=True)
class Stored:
    """Is pickled as a reference to the float storage `key` that claims `numel` values."""

    numel: int
    key: str = "0"


class _Pickler(pickle.Pickler):
    legacy = False

    def persistent_id(self, value: object) -> tuple[object, ...] | None:
        if not isinstance(value, Stored):
            return None
        view = (None,) if self.legacy else ()
        return ("storage", torch.FloatStorage, value.key, "cpu", value.numel, *view)


class _LegacyPickler(_Pickler):
    legacy = True


def tensor(storage: object, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Call:
    """A tensor as torch.save describes it, with any figures."""
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, {})


def write_zip(
    path: Path, content: object, records: Mapping[str, bytes] | None = None, packing: int = zipfile.ZIP_STORED
) -> Path:
    """Write weights in torch's zip format; `content` may be the bytes of a pickle."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("archive/data.pkl", content if isinstance(content, bytes) else pickled(content))
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        for name, data in (records or {}).items():
            archive.writestr(f"archive/{name}", data)
    return path


def write_legacy(path: Path, content: object, storages: Mapping[str, tuple[int, bytes]] | None = None) -> Path:
    """Write weights in the format before torch 1.6; `storages` are the claimed number of floats and the bytes, by key."""
    given = storages or {}
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {"little_endian": True})]
    body = content if isinstance(content, bytes) else pickled(content, _LegacyPickler)
    raw = b"".join(struct.pack("<q", numel) + data for numel, data in given.values())
    path.write_bytes(b"".join((*parts, body, pickle.dumps(list(given), 2), raw)))
    return path


def pickled(content: object, pickler: type[_Pickler] = _Pickler) -> bytes:
    """The pickle of a tree that may hold `Call` and `Stored`."""
    buffer = io.BytesIO()
    pickler(buffer, 2).dump(content)
    return buffer.getvalue()
