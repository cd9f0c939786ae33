from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edcompress.core.errors import CheckpointError
from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint, save_tensors

DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    "adadelta": lambda parameters: torch.optim.Adadelta(parameters, lr=1.0),
}


def assert_same(one: Any, other: Any) -> None:
    """Compare structure, key types, and every bit of every tensor."""
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert [(type(key), key) for key in one] == [(type(key), key) for key in other]
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert (type(one), one) == (type(other), other)


def roundtrip(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    (path / "state").mkdir(exist_ok=True)
    save_checkpoint(path / "state" / "latest.safetensors", tree)
    return load_checkpoint(path / "state" / "latest.safetensors")


def test_a_nested_tree_is_restored_with_its_integer_keys(tmp_path: Path) -> None:
    tree = {"stage": "search", "state": {0: {"step": 3, "deep": [1, 2.5, None, True, {"a": []}]}, 1: {}}, "empty": {},
            "names": {"tensor": "no reference", "value": torch.ones(2), "dict": {"list": torch.zeros(3)}}}  # fmt: skip
    assert_same(tree, roundtrip(tmp_path, tree))


def test_every_dtype_is_restored_bit_for_bit(tmp_path: Path) -> None:
    random = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    tree = {str(dtype): (random * 50).abs().to(dtype) for dtype in DTYPES}
    tree |= {
        "scalar": torch.tensor(1.5),
        "none": torch.zeros(0, 4),
        "turned": random.t(),
        "pixels": random[:, :2].view(2, 2, 2, 1),
    }
    assert_same(tree, roundtrip(tmp_path, tree))


def test_a_generator_continues_where_it_stopped(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    torch.rand(5, generator=generator)
    state = roundtrip(tmp_path, {"generator": generator.get_state()})["generator"]
    assert torch.equal(torch.Generator().set_state(state).get_state(), generator.get_state())
    assert torch.equal(torch.rand(9, generator=generator), torch.rand(9, generator=torch.Generator().set_state(state)))


def trained(make: Callable[[Any], torch.optim.Optimizer], steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
    optimizer = make(network.parameters())
    for step in range(steps):
        train_step(network, optimizer, step)
    return network, optimizer


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    images = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    network(images).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_continues_bit_for_bit(tmp_path: Path, name: str) -> None:
    network, optimizer = trained(OPTIMIZERS[name], steps=3)
    saved = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    back = roundtrip(tmp_path, saved)
    assert_same(saved, back)
    other, resumed = trained(OPTIMIZERS[name], steps=0)
    other.load_state_dict(back["network"])
    resumed.load_state_dict(back["optimizer"])
    for step in (3, 4):
        train_step(network, optimizer, step)
        train_step(other, resumed, step)
    assert_same(network.state_dict(), other.state_dict())


def test_a_second_checkpoint_replaces_the_first_and_leaves_no_part(tmp_path: Path) -> None:
    roundtrip(tmp_path, {"epoch": 1})
    assert roundtrip(tmp_path, {"epoch": 2}) == {"epoch": 2}
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["latest.safetensors"]


@pytest.mark.parametrize("keep", [0, 40, 300])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    save_checkpoint(tmp_path / "s.safetensors", {"weight": torch.zeros(200)})
    (tmp_path / "s.safetensors").write_bytes((tmp_path / "s.safetensors").read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"damaged .*; start over with --force"):
        load_checkpoint(tmp_path / "s.safetensors")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "s.safetensors", {"weight": torch.zeros(200), "epoch": 3})
    content = bytearray((tmp_path / "s.safetensors").read_bytes())
    content[-7] ^= 1
    (tmp_path / "s.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum mismatch"):
        load_checkpoint(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    "tree", ["", "null", "3", "[]", '{"value": 3}', '{"dict": 3}', '{"tensor": "x"}', "[" * 100_000]
)
def test_a_malformed_tree_is_refused(tmp_path: Path, tree: str) -> None:
    save_tensors(tmp_path / "latest.safetensors", {"0": torch.ones(1)}, {"tree": tree})
    with pytest.raises(CheckpointError, match="is not the checkpoint of a run, or is damaged"):
        load_checkpoint(tmp_path / "latest.safetensors")
