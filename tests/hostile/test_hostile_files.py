"""Safetensors files and indices with false claims, files cut anywhere, pipes and devices: each is refused with a message."""

import json
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edcompress.core.system.tensor_files import save_tensors

Refused = Callable[..., str]
DAMAGED, TOO_LONG = "is a damaged or truncated safetensors file", "has at most 10000000"
ONE = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_safetensors(path: Path, header: object, data: int, length: int | None = None) -> Path:
    """Write a header (or its bytes) with `data` zero bytes after it, and any length before it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


LIES = {
    "beyond the file": ({"w": entry([4], 0, 16)}, 4, DAMAGED),
    "overlapping": ({"w": entry([2], 0, 8), "v": entry([2], 4, 12)}, 12, DAMAGED),
    "a hole": ({"w": entry([1], 0, 4), "v": entry([1], 8, 12)}, 12, DAMAGED),
    "more data": ({"w": entry([1], 0, 4)}, 12, DAMAGED),
    "negative offsets": ({"w": entry([2], -8, 0)}, 12, DAMAGED),
    "negative shape": ({"w": entry([-1], 0, 4)}, 4, DAMAGED),
    "10^12 values": ({"w": entry([10**12], 0, 4 * 10**12)}, 4, DAMAGED),
    "2^80 values": ({"w": entry([2**40, 2**40], 0, 8)}, 8, DAMAGED),
    "another shape": ({"w": entry([3], 0, 4)}, 4, DAMAGED),
    "unknown dtype": ({"w": entry([1], 0, 4, "F33")}, 4, DAMAGED),
    "float8": ({"w": entry([4], 0, 4, "F8_E4M3")}, 4, "w is of torch.float8"),
    "float4": ({"w": entry([8], 0, 4, "F4")}, 4, "w is of torch.float4"),
    "complex": ({"w": entry([1], 0, 8, "C64")}, 8, "w is of torch.complex64"),
    "twins": (b"{" + ONE + b"," + ONE + b"}", 4, "duplicate name 'w' in its header"),
    "no JSON": (b'{"w": nonsense', 4, DAMAGED),
    "no text": (b'{"w\xff": 1}', 4, DAMAGED),
    "deep": (b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0, DAMAGED),
    "metadata": ({"__metadata__": {"a": 1}}, 0, DAMAGED),
    "nothing": ({}, 0, "holds no tensors by name"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_with_false_headers(refused: Refused, tmp_path: Path, lie: str) -> None:
    header, data, says = LIES[lie]
    assert says in refused(write_safetensors(tmp_path / "w.safetensors", header, data))


def test_long_headers(refused: Refused, tmp_path: Path) -> None:
    spaces = b"{" + ONE + b" " * 100_000_000 + b"}"
    assert TOO_LONG in refused(write_safetensors(tmp_path / "w.safetensors", spaces, 4))
    names = b"{" + b",".join(b'"%d":%s' % (i, ONE[4:]) for i in range(200_000)) + b"}"
    assert TOO_LONG in refused(write_safetensors(tmp_path / "w.safetensors", names, 4))


@pytest.mark.parametrize("length", [9, 10**6, 10**9, 2**47])
def test_a_header_longer_than_the_file(refused: Refused, tmp_path: Path, length: int) -> None:
    text = refused(write_safetensors(tmp_path / "w.safetensors", b"{" + ONE + b"}", 4, length))
    assert DAMAGED in text or TOO_LONG in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "UnicodeDecodeError"),
        (b"[" * 200_000, "RecursionError"),
        (b"null", "TypeError"),
        (b'{"weight_map": null}', "TypeError"),
        (b'{"weight_map": {"a": 3}}', "TypeError"),
        (b'{"weight_map": {"a": ["x"]}}', "TypeError"),
        (b'{"weight_map": {}}', "holds no tensors by name"),
        (b'{"weight_map": {"a": "../w.safetensors"}}', "outside its own folder: '../w.safetensors'"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "outside its own folder: '/etc/passwd'"),
        (b'{"weight_map": {"a": "..\\\\w"}}', "there is no such file"),
        (b'{"weight_map": {"a": ".."}}', "is a folder"),
        (b'{"weight_map": {"a": "a\\u0000b"}}', "there is no such file"),
        (b'{"weight_map": {"a": "%s"}}' % (b"x" * 5000), "File name too long"),
        (b'{"weight_map": {"a": "model.safetensors.index.json"}}', TOO_LONG),
        (b'{"weight_map": {"a": "text.safetensors"}}', TOO_LONG),
        (b'{"weight_map": {"a": "pipe.safetensors"}}', "is a device, pipe or socket"),
        (b'{"weight_map": {}}' + b" " * 10_000_000, TOO_LONG),
    ],
)  # fmt: skip
def test_indices_with_false_entries(reader, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "text.safetensors").write_text("weights")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    outcome = reader.read(tmp_path / "model.safetensors.index.json")
    assert outcome.kind == "WeightsError", outcome
    assert says in outcome.text
    assert str(tmp_path) in outcome.text


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_cut_at_every_tenth(refused: Refused, dense_state: dict[str, Tensor], tmp_path: Path, form: str) -> None:
    if form == "safetensors":
        save_tensors(tmp_path / "whole", dense_state)
    else:
        torch.save(dense_state, tmp_path / "whole", _use_new_zipfile_serialization=form == "zip")
    data = (tmp_path / "whole").read_bytes()
    for tenth in range(10):
        (tmp_path / "cut").write_bytes(data[: len(data) * tenth // 10])
        assert ("truncated" if tenth else "is empty") in refused(tmp_path / "cut")


UNREADABLE = ("unknown bytes", "damaged or truncated", "is truncated", "code", "its header claims")


@pytest.mark.parametrize(
    "head", [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x04\x95", b"\0\0\0\0\0\0\0\0{"]
)
def test_random_bytes(refused: Refused, tmp_path: Path, head: bytes) -> None:
    for seed in range(5):
        (tmp_path / "w.pt").write_bytes(head + random.Random(seed).randbytes(10_000))
        text = refused(tmp_path / "w.pt")
        assert any(reason in text for reason in UNREADABLE), text


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_read_as_other_weights_or_are_refused(
    reader, dense_state: dict[str, Tensor], tmp_path: Path, form: str
) -> None:
    small = {key: value[:2].clone() for key, value in dense_state.items() if value.ndim == 1}
    if form == "safetensors":
        save_tensors(tmp_path / "whole", small)
    else:
        torch.save(small, tmp_path / "whole", _use_new_zipfile_serialization=form == "zip")
    whole, dice = (tmp_path / "whole").read_bytes(), random.Random(0)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(3):
            data[dice.randrange(len(data))] = dice.randrange(256)
        (tmp_path / "w.pt").write_bytes(data)
        outcome = reader.read(tmp_path / "w.pt")
        assert outcome.kind in ("", "WeightsError"), outcome
        assert outcome.peak < 2 * 2**30


def test_pipes_sockets_devices_and_folders_are_not_opened(refused: Refused, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), Path(os.devnull)):
            assert "is a device, pipe or socket" in refused(path)
    (tmp_path / "loop").symlink_to("loop")
    assert "there is no such file" in refused(tmp_path / "loop")
    assert "is a folder" in refused(tmp_path)


def test_the_command_line_says_so_with_exit_code_2(cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    shell = b"touch " + bytes(tmp_path / "canary")
    (tmp_path / "trap.pt").write_bytes(b"\x80\x02cos\nsystem\nX%b%b\x85R." % (len(shell).to_bytes(4, "little"), shell))
    write_safetensors(tmp_path / "claim.safetensors", {"w": entry([10**12], 0, 4 * 10**12)}, 4)
    for name in ("pipe", "trap.pt", "claim.safetensors"):
        ended = cli("inspect", tmp_path / name, "--recipe", "resnet20_cifar10")
        assert (ended.code, ended.out) == (2, "")
        assert f"error: {tmp_path / name}: " in ended.err
        assert "Traceback" not in ended.err
    assert not (tmp_path / "canary").exists()
