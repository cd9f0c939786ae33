"""Malicious PyTorch files: each is refused with a message, runs no code, and costs neither memory nor time."""

import _codecs
import argparse
import os
import subprocess
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from forge import Call, Stored, tensor, write_legacy, write_zip
from torch import Tensor

Refused = Callable[..., str]
FOUR_BYTES = {"data/0": bytes(4)}
CODE = "holds a pickled object or code"
WAYS = ("system", "eval", "exec", "subprocess", "mkdir", "torch.load", "bytes of a storage", "an argument of Namespace",
        "an attribute in Namespace", "the rebuilding of a subclass", "numpy")  # fmt: skip
TOO_MUCH = "asks for more than 1024 MiB of memory"


def touching(canary: Path) -> dict[str, object]:
    """Calls that would create the file `canary`, by the function that they use."""
    program = f"open({str(canary)!r}, 'w')"
    return {
        "system": Call(os.system, f"touch {canary}"),
        "eval": Call(eval, program),
        "exec": Call(exec, program),
        "subprocess": Call(subprocess.Popen, ["touch", str(canary)]),
        "mkdir": Call(os.mkdir, str(canary)),
        "torch.load": Call(torch.load, str(canary)),
        "bytes of a storage": Call(torch.storage._load_from_bytes, write_inner(canary).read_bytes()),
        "an argument of Namespace": Call(argparse.Namespace, Call(os.system, f"touch {canary}")),
        "an attribute in Namespace": Call(argparse.Namespace, state={"lr": Call(os.system, f"touch {canary}")}),
        "the rebuilding of a subclass": Call(
            torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (f"touch {canary}",), None
        ),
        "numpy": np.ones(3),
    }


def write_inner(canary: Path) -> Path:
    """A zip inside the zip."""
    return write_zip(canary.with_suffix(".inner"), Call(os.system, f"touch {canary}"))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("way", WAYS)
def test_no_code_runs(refused: Refused, tmp_path: Path, way: str, write: Callable[..., Path]) -> None:
    content = touching(tmp_path / "canary")[way]
    text = refused(write(tmp_path / "w.pt", {"state_dict": {}, "extra": content}))
    assert CODE in text or "damaged" in text
    assert not (tmp_path / "canary").exists()


def grown(function: object, times: int, *arguments: object) -> object:
    """A value that doubles its length with each call."""
    value: object = Call(_codecs.encode, "a" * 64, "utf-8")
    for _ in range(times):
        value = Call(function, value, *arguments)
    return value


ONE = tensor(Stored(1), (1,), (1,))
BILLION = (10**6, 10**6)
CLAIMS = {
    "a negative stride": (tensor(Stored(1), (2,), (-1,)), "damaged"),
    "a negative shape": (tensor(Stored(1), (-5,), (1,)), "damaged"),
    "a negative offset": (tensor(Stored(1), (1,), (1,), -1000), "damaged"),
    "an offset out of the storage": (tensor(Stored(1), (1,), (1,), 2**62), "damaged"),
    "a shape out of the storage": (tensor(Stored(1), (100,), (1,)), "damaged"),
    "a storage of 10^8": (tensor(Stored(10**8), (10**8,), (1,)), "damaged"),
    "a storage of 10^12": (tensor(Stored(10**12), BILLION, (10**6, 1)), "damaged"),
    "stride 0 of 10^8": (tensor(Stored(1), (10**8,), (0,)), "claims 100000000 values"),
    "stride 0 of 10^12": (tensor(Stored(1), BILLION, (0, 0)), "claims 1000000000000 values"),
    "stride 0 in half precision": (
        Call(torch._utils._rebuild_tensor_v3, Stored(1), 0, (10**9,), (0,), False, {}, torch.float16, None),
        "claims 1000000000 values"),
    "stride 0 copied": (
        Call(torch._utils._rebuild_device_tensor_from_cpu_tensor, tensor(Stored(1), (10**9,), (0,)), torch.float64, "cpu", False),
        TOO_MUCH),
    "meta": (Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, BILLION, (10**6, 1), False), "no values"),
    "a wrapper without values": (
        Call(torch._utils._rebuild_wrapper_subclass, torch.nn.Parameter, torch.float32, BILLION, (10**6, 1), 0,
             torch.strided, torch.device("cpu"), False), "damaged"),
    "a tensor out of nothing": (Call(torch.Tensor, 10**5, 10**5), TOO_MUCH),
    "a storage out of nothing": (Call(torch.UntypedStorage, 2**33), TOO_MUCH),
    "a storage class called": (tensor(Call(torch.FloatStorage, 10**10), (10**10,), (1,)), "damaged"),
    "a bytearray": (Call(bytearray, 2**33), TOO_MUCH),
    "bytes that double": (grown(_codecs.encode, 30, "hex"), CODE),
    "a slow codec": (Call(_codecs.encode, "".join(chr(0x4E00 + i % 20_000) for i in range(20_000)), "punycode"), CODE),
    "tensors' methods": (
        Call(torch._utils._rebuild_parameter_with_state, ONE, True, {}, {"is_meta": True, "to": 3, "detach": 3}), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims_are_checked_against_the_file(refused: Refused, tmp_path: Path, claim: str) -> None:
    content, word = CLAIMS[claim]
    assert word in refused(write_zip(tmp_path / "w.pt", {"good": ONE, "w": content}, FOUR_BYTES))


@pytest.mark.parametrize("numel", [-3, 10**9, 10**12])
@pytest.mark.parametrize("written", [True, False])
def test_legacy_claims_are_checked_against_the_file(
    refused: Refused, tmp_path: Path, numel: int, written: bool
) -> None:
    storages = {"0": (numel, bytes(4))} if written else {}
    text = refused(write_legacy(tmp_path / "w.pt", {"w": tensor(Stored(numel), (abs(numel),), (1,))}, storages))
    assert "damaged" in text or TOO_MUCH in text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\x80\x02}q\x00U\x05modelh\x00s.", "holds no tensors by name"),
        (b"\x80\x02" + b"}U\x05model" * 50_000 + b"}" + b"s" * 50_000 + b".", "holds no tensors by name"),
        (b"\x80\x02}N" + b"\x85" * 20_000 + b"K\x01s.", "holds no tensors by name"),
        (b"\x80\x02}N" + b"\x85" * 1_000_000 + b"K\x01s.", "holds more than 60000 tuples"),
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "holds a list"),
        (b"\x80\x02}(K\x01K\x02K\x03u.", "damaged"),
        (b"\x80\x02h\xff.", "damaged"),
        (b"\x80\x02\x8a\xff", "damaged"),
        (b".", "damaged"),
        (b"\xff" * 100, CODE),
    ],
    ids=["contains itself", "50000 wrappers", "a deep key", "deeper", "a deep list", "odd items", "no such memo", "cut", "stop", "ff"],
)  # fmt: skip
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_odd_pickles(refused: Refused, tmp_path: Path, write: Callable[..., Path], body: bytes, says: str) -> None:
    assert says in refused(write(tmp_path / "w.pt", body))


def test_a_dict_whose_methods_were_replaced_is_read_as_it_is(reader, tmp_path: Path) -> None:
    content = Call(OrderedDict, [("w", ONE)], state={"get": 3, "items": 3, "keys": bytearray})
    assert reader.read(write_zip(tmp_path / "w.pt", content, FOUR_BYTES)).kind == ""


def inflating(path: Path, gib: int) -> Path:
    """Write weights whose one tensor inflates to `gib` GiB of zeros, from one compressed block many times."""
    write_zip(path, {"w": tensor(Stored(gib * 2**28), (gib * 2**28,), (1,))})
    block = bytes(2**24)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    member = zipfile.ZipInfo("archive/data/0")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, packed * (gib * 64) + end)
        member.compress_type, member.file_size, member.CRC = zipfile.ZIP_DEFLATED, gib * 2**30, 0
    return path


def test_a_record_that_inflates(refused: Refused, tmp_path: Path) -> None:
    path = inflating(tmp_path / "w.pt", 3)
    assert path.stat().st_size < 2**23
    assert "archive/data/0 in it is compressed" in refused(path)
    path = write_zip(tmp_path / "v.pt", {"w": ONE}, FOUR_BYTES, zipfile.ZIP_DEFLATED)
    assert "is compressed, which torch.save never does" in refused(path)


VALUES = {
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "float8": lambda: torch.zeros(3).to(torch.float8_e4m3fn),
    "uint16": lambda: torch.zeros(3, dtype=torch.uint16),
    "sparse": lambda: torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (3,), check_invariants=True),
    "meta": lambda: torch.zeros(10**6, 10**6, device="meta"),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # of torch 2.11
@pytest.mark.parametrize("kind", VALUES)
def test_values_that_no_network_takes(refused: Refused, tmp_path: Path, kind: str) -> None:
    torch.save({"w": VALUES[kind]()}, tmp_path / "w.pt")
    text = refused(tmp_path / "w.pt")
    assert "w is of torch." in text or "w has a shape and no values" in text


def test_quantised_values(refused: Refused, tmp_path: Path) -> None:
    scale = (torch.per_tensor_affine, 0.1, 0)
    quantised = Call(torch._utils._rebuild_qtensor, Stored(1), 0, (1,), (1,), scale, False, {})
    text = refused(write_zip(tmp_path / "w.pt", {"w": quantised}, FOUR_BYTES))
    assert "damaged" in text or "w is of torch.q" in text


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (lambda w: w.to(torch.int32), "holds torch.int32 values, the network's are torch.float32"),
        (lambda w: w > 0, "holds torch.bool values"),
        (lambda w: w * float("nan"), "NaN or infinite values"),
        (lambda w: w / 0, "NaN or infinite values"),
        (lambda w: w.double() * 1e300, "NaN or infinite values"),
        (lambda w: w.flatten()[:1].expand(10**9), "claims 1000000000 values"),
        (lambda _: "weights", "missing conv1.weight"),
        (lambda _: None, "missing conv1.weight"),
    ],
)  # fmt: skip
def test_a_tensor_of_a_wrong_kind_is_refused(
    refused: Refused, dense_state: dict[str, Tensor], tmp_path: Path, changed: Callable[[Tensor], object], says: str
) -> None:
    torch.save(dense_state | {"conv1.weight": changed(dense_state["conv1.weight"])}, tmp_path / "w.pt")
    assert says in refused(tmp_path / "w.pt", fit=True)
