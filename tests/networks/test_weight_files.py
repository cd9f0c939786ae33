import argparse
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from edcompress.core.errors import StorageError, WeightsError
from edcompress.core.recipe.model import Model
from edcompress.core.system.tensor_files import read_metadata, save_tensors
from edcompress.networks.load_weights import load_into
from edcompress.networks.registry import build
from edcompress.networks.weight_files import read_state_dict


class Small(nn.Module):
    """A network that can be imported, and so pickled as a whole."""

    def __init__(self, classes: int = 4, channels: int = 3, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, kernel)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return Small().state_dict()


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_lightnings_prefix_is_dropped(tmp_path: Path, state: dict[str, Tensor]) -> None:
    wrapped = {f"model.backbone.{key}": value for key, value in state.items()}
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "state_dict": {**wrapped, "criterion.weight": torch.ones(4)},
    }
    torch.save(content, tmp_path / "last.ckpt")
    network = Small()
    load_into(network, read_state_dict(tmp_path / "last.ckpt"), source="last.ckpt")
    assert same(network.state_dict(), state)
    wrapped.pop("model.backbone.fc.bias")
    with pytest.raises(WeightsError, match=r"missing fc\.bias"):
        load_into(Small(), wrapped, source="last.ckpt")


def test_averaged_weights_are_read_where_asked_for(tmp_path: Path, state: dict[str, Tensor]) -> None:
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save(
        {"arch": "small", "state_dict": state, "state_dict_ema": averaged, "args": argparse.Namespace(lr=1)},
        tmp_path / "timm.pth.tar",
    )
    assert same(read_state_dict(tmp_path / "timm.pth.tar"), state)
    assert same(read_state_dict(tmp_path / "timm.pth.tar", ema=True), averaged)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"holds no averaged weights .* drop model\.ema"):
        read_state_dict(tmp_path / "w.pt", ema=True)


def test_shards_are_read_by_their_index(tmp_path: Path, state: dict[str, Tensor]) -> None:
    index, files = tmp_path / "model.safetensors.index.json", ("model-1.safetensors", "model-2.safetensors")
    parts = [dict(list(state.items())[:3]), dict(list(state.items())[3:])]
    for file, part in zip(files, parts, strict=True):
        save_tensors(tmp_path / file, part)
    shards = {key: file for file, part in zip(files, parts, strict=True) for key in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert same(read_state_dict(index), state)
    index.write_text(json.dumps({"weight_map": {**shards, "more.weight": files[0]}}))
    with pytest.raises(WeightsError, match=r"hold no more\.weight"):
        read_state_dict(index)
    index.write_text(json.dumps({"weight_map": {**shards, "more.weight": "../other.safetensors"}}))
    with pytest.raises(WeightsError, match="outside its own folder"):
        read_state_dict(index)
    index.write_text(json.dumps({"weight_map": {**shards, "more.weight": "model-3.safetensors"}}))
    with pytest.raises(WeightsError, match=r"model-3\.safetensors: there is no such file"):
        read_state_dict(index)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="is not an index of safetensors shards"):
        read_state_dict(index)


def test_a_head_of_other_classes_is_reset_where_asked_for(state: dict[str, Tensor]) -> None:
    network = Small(classes=7)
    head = network.fc.weight.detach().clone()
    with pytest.raises(
        WeightsError, match=r"4 classes.*num_classes is 7.*model\.reset_head: true starts with a new classifier"
    ):
        load_into(network, state, source="w.pt")
    assert load_into(network, state, source="w.pt", reset_head=True) == {"fc.weight", "fc.bias"}
    assert torch.equal(network.fc.weight, head)
    assert torch.equal(network.conv.weight, state["conv.weight"])
    with pytest.raises(WeightsError, match="input channels"):
        load_into(Small(channels=1), state, source="w.pt", reset_head=True)


def test_both_heads_of_a_network_are_reset() -> None:
    def two_heads(classes: int) -> nn.Module:
        heads = {"head": nn.Linear(8, classes), "head_dist": nn.Linear(8, classes)}
        return nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), **heads})

    state = two_heads(4).state_dict()
    reset = {f"{head}.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")}
    with pytest.raises(WeightsError, match=r"4 classes, the recipe's model\.num_classes is 7"):
        load_into(two_heads(7), state, source="w.pt")
    assert load_into(two_heads(7), state, source="w.pt", reset_head=True) == reset
    wider = {**state, "conv.weight": torch.zeros(9, 3, 3, 3), "conv.bias": torch.zeros(9)}
    with pytest.raises(WeightsError, match="different shapes"):
        load_into(two_heads(7), wider, source="w.pt", reset_head=True)


def test_a_file_that_holds_the_network_twice_is_refused(state: dict[str, Tensor]) -> None:
    teacher = {f"teacher.{key}": value + 1 for key, value in state.items()}
    student = {f"student.{key}": value for key, value in state.items()}
    with pytest.raises(WeightsError, match=r"twice, under teacher\. and under student\.; save only the weights to use"):
        load_into(Small(), {**teacher, **student}, source="both.ckpt")
    network = Small()
    load_into(network, {**student, **{f"alias.{key}": value for key, value in state.items()}}, source="both.ckpt")
    assert same(network.state_dict(), state)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.th", "w.safetensors", "w"])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_reads_by_content_whatever_the_suffix(tmp_path: Path, state: dict[str, Tensor], name: str, form: str) -> None:
    path = tmp_path / name
    if form == "safetensors":
        save_tensors(path, state)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    assert same(read_state_dict(path), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}},
        lambda s: {"model": s},
        lambda s: {"model_state_dict": s, "loss": torch.tensor(1.0)},
        lambda s: {"model_ema": {"state_dict_ema": s}, "best": 0.3},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"module._orig_mod.module.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {k.replace("conv.", "conv._orig_mod."): v for k, v in s.items()},
        lambda s: {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in s.items()}},
        lambda s: {**s, "comment": "best"},
    ],
)
def test_unwraps_and_strips_prefixes(tmp_path: Path, state: dict[str, Tensor], wrap) -> None:  # type: ignore[no-untyped-def]
    torch.save(wrap(state), tmp_path / "w.pt")
    assert same(read_state_dict(tmp_path / "w.pt"), state)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_and_counters_stay(tmp_path: Path, half: torch.dtype) -> None:
    torch.save(Small().to(half).state_dict(), tmp_path / "w.pt")
    read = read_state_dict(tmp_path / "w.pt")
    assert read["conv.weight"].dtype == torch.float32
    assert read["bn.num_batches_tracked"].dtype == torch.int64


def test_old_densenet_names(tmp_path: Path) -> None:
    torch.save({"features.denselayer1.norm.1.weight": torch.ones(2)}, tmp_path / "w.pt")
    assert list(read_state_dict(tmp_path / "w.pt")) == ["features.denselayer1.norm1.weight"]


@pytest.mark.parametrize("trained", [lambda m: m, lambda m: {"model": m, "epoch": 1}])
def test_a_pickled_module_needs_trust(tmp_path: Path, trained) -> None:  # type: ignore[no-untyped-def]
    network, path = Small(), tmp_path / "w.pt"
    torch.save(trained(network), path)
    with pytest.raises(WeightsError, match=r"pickled object or code \(.*Small\).*--trust-pickle"):
        read_state_dict(path)
    assert same(read_state_dict(path, trust_pickle=True), network.state_dict())


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, state: dict[str, Tensor], form: str) -> None:
    path, mark = tmp_path / "w.pt", tmp_path / "was_run"
    content = {"state_dict": state, "extra": Payload(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content["extra"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        WeightsError, match=r"(?s)code.*mkdir.*nothing was run.*torch\.save\(network\.state_dict.*--trust-pickle"
    ):
        read_state_dict(path)
    assert not mark.exists()


def test_a_trusted_pickle_that_cannot_be_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Small(), tmp_path / "w.pt")
    monkeypatch.delattr(sys.modules[__name__], "Small")
    with pytest.raises(WeightsError, match=r"cannot be rebuilt here: AttributeError: .*Small"):
        read_state_dict(tmp_path / "w.pt", trust_pickle=True)


def test_missing_file_suggests_near_names(tmp_path: Path) -> None:
    (tmp_path / "resnet20.pt").touch()
    with pytest.raises(WeightsError, match=r"no such file; .* has resnet20\.pt"):
        read_state_dict(tmp_path / "resnet20.pth")
    with pytest.raises(WeightsError, match="no folder"):
        read_state_dict(tmp_path / "nowhere" / "w.pt")


def test_folder_and_empty_file(tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    with pytest.raises(WeightsError, match="is a folder"):
        read_state_dict(tmp_path)
    with pytest.raises(WeightsError, match="is empty"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.95])
def test_truncated(tmp_path: Path, state: dict[str, Tensor], form: str, kept: float) -> None:
    path = tmp_path / "w.pt"
    if form == "safetensors":
        save_tensors(path, state)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: max(16, int(len(data) * kept))])
    with pytest.raises(WeightsError, match=r"w\.pt: is .*truncated"):
        read_state_dict(path)


@pytest.mark.parametrize("text", [b"version https://git-lfs.github.com/spec/v1", b"<!DOCTYPE html>", b"{}", b"ab"])
def test_text_renamed(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(text)
    with pytest.raises(WeightsError, match="neither a PyTorch nor a safetensors file: it is a text file"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3, "loss": 0.1}, "top-level keys: epoch, loss"),
        ({}, "top-level keys: nothing"),
        ([1, 2], "holds a list"),
        (torch.ones(3), "holds a Tensor"),
        ({"a.w": torch.ones(1), "module.a.w": torch.ones(1)}, "twice"),
    ],
)
def test_no_state_dict_inside(tmp_path: Path, content: object, says: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=says):
        read_state_dict(tmp_path / "w.pt")


def test_save_is_complete_and_leaves_no_parts(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    tensors = {"a": shared, "b": shared, "c": shared.t(), "d": shared[:, 1]}
    save_tensors(tmp_path / "w.safetensors", tensors, {"arch": "small"})
    save_tensors(tmp_path / "w.safetensors", tensors, {"arch": "small"})
    assert same(read_state_dict(tmp_path / "w.safetensors"), tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        assert file.metadata() == {"arch": "small"}


def test_save_to_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: No such file or directory; its folder is gone"):
        save_tensors(tmp_path / "nowhere" / "w.safetensors", {"a": torch.ones(1)})


def test_loads_all_even_without_batch_counters(state: dict[str, Tensor]) -> None:
    network = Small()
    load_into(network, {k: v for k, v in state.items() if "num_batches" not in k}, source="w.pt")
    assert same(network.state_dict(), state)


def test_tensors_that_are_not_weights_may_be_missing_or_superfluous() -> None:
    network = Small()
    network.register_buffer("places", torch.arange(4))
    state = Small().state_dict()  # an older version of the same network, without the table
    extra = {"relative_position_index": torch.arange(9), "conv.mask": torch.ones(3) > 0, "total_ops": torch.zeros(1)}
    load_into(network, {**state, **extra, "conv.total_params": torch.zeros(1)}, source="w.pt")
    assert same(network.state_dict(), {**state, "places": torch.arange(4)})
    with pytest.raises(WeightsError, match=r"missing bn\.running_var"):
        load_into(network, {k: v for k, v in state.items() if k != "bn.running_var"}, source="w.pt")
    with pytest.raises(WeightsError, match=r"unexpected bn\.pixel_mean"):
        load_into(network, {**state, "bn.pixel_mean": torch.zeros(3)}, source="w.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_a_network_with_a_block_called_module_loads(tmp_path: Path, prefix: str) -> None:
    network, saved = (nn.ModuleDict({"module": Small(), "head": nn.Linear(4, 2)}) for _ in range(2))
    torch.save({f"{prefix}{key}": tensor for key, tensor in saved.state_dict().items()}, tmp_path / "w.pt")
    load_into(network, read_state_dict(tmp_path / "w.pt"), source="w.pt")
    assert same(network.state_dict(), saved.state_dict())


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Small(classes=9), r"w\.pt: the weights have 9 classes, the recipe's model\.num_classes is 4"),
        (Small(channels=1), r"take 1 input channels, the recipe's model\.in_channels is 3"),
        (Small(kernel=7), r"conv\.weight of the weights is 7x7, the network's 3x3: see model\.stem"),
        (nn.Linear(8, 4), r"0 of 10 tensors match, so this is probably a different architecture"),
        (Small(classes=9, channels=1), r"different shapes conv\.weight \[8, 1, 3, 3\] instead of \[8, 3, 3, 3\], fc"),
    ],
)
def test_says_what_does_not_fit(other: nn.Module, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        load_into(Small(), other.state_dict(), source="w.pt")


def test_a_different_depth_is_a_different_architecture_with_names_capped() -> None:
    deep, shallow = (build(Model(arch=arch, num_classes=10)) for arch in ("resnet56", "resnet20"))
    with pytest.raises(WeightsError, match=r"different architecture.*missing layer1\.3\.conv1\.weight.* and \d+ more$"):
        load_into(deep, shallow.state_dict(), source="w.pt")
    with pytest.raises(WeightsError, match=r"different architecture.*unexpected layer1\.3\.conv1\.weight.* more$"):
        load_into(shallow, deep.state_dict(), source="w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(state: dict[str, Tensor], value: float) -> None:
    state["fc.weight"][0, :2] = value
    network = Small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(WeightsError, match=r"w\.pt: fc\.weight holds 2 NaN or infinite values of 32"):
        load_into(network, state, source="w.pt")
    assert same(network.state_dict(), before)


def test_auxiliary_heads_are_left_out() -> None:
    network, other = (build(Model(arch="googlenet", num_classes=3)) for _ in range(2))
    load_into(network, {**other.state_dict(), "aux1.fc1.weight": torch.ones(2)}, source="w.pt")
    assert same(network.state_dict(), other.state_dict())


def test_layouts_with_versions_load() -> None:
    network, other = (build(Model(arch="mnasnet0_5", num_classes=3)) for _ in range(2))
    load_into(network, dict(other.state_dict()), source="w.pt")
    assert same(network.state_dict(), other.state_dict())


@pytest.mark.parametrize(("arch", "file"), [("resnet20", "resnet20-12fca82f.th"), ("resnet56", "resnet56-4bfd9763.th")])
def test_public_cifar_weights_load(arch: str, file: str) -> None:
    if "EDCOMPRESS_DATA" not in os.environ:
        pytest.skip("needs EDCOMPRESS_DATA")
    tensors = read_state_dict(Path(os.environ["EDCOMPRESS_DATA"]) / "checkpoints" / file)
    network = build(Model(arch=arch, num_classes=10))
    load_into(network, tensors, source=file)
    assert torch.equal(network.state_dict()["layer3.2.conv2.weight"], tensors["layer3.2.conv2.weight"])


def test_equal_tensors_and_metadata_make_equal_bytes(tmp_path: Path) -> None:
    tensors, metadata = {"b": torch.zeros(3), "a": torch.ones(2)}, {name: f'{name} "é\x01\\' for name in "hgfedcba"}
    for number in range(5):
        save_tensors(tmp_path / f"{number}.safetensors", tensors, metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert read_metadata(tmp_path / "0.safetensors") == metadata
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.safetensors" for number in range(5)]


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
def test_masks_of_torchs_pruning_are_applied(prefix: str) -> None:
    sparse, plain = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)) for _ in range(2))
    prune.l1_unstructured(sparse[0], "weight", amount=0.5)
    prune.l1_unstructured(sparse[2], "bias", amount=1)
    load_into(plain, {prefix + key: tensor for key, tensor in sparse.state_dict().items()}, source="sparse.pt")
    prune.remove(sparse[0], "weight")
    prune.remove(sparse[2], "bias")
    assert all(torch.equal(tensor, sparse.state_dict()[key]) for key, tensor in plain.state_dict().items())


def test_a_network_with_masks_of_its_own_keeps_them() -> None:
    one, other = (prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", amount=9) for _ in range(2))
    load_into(other, one.state_dict(), source="sparse.pt")
    assert torch.equal(one.weight_mask, other.weight_mask)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("0.weight_fake_quant.scale", "prune before that"),
        ("activation_post_process_0.min_val", "prune before preparing it"),
        ("0.parametrizations.weight.original0", "remove_parametrizations before saving"),
    ],
)
def test_names_of_tensors_explain_why_weights_do_not_fit(key: str, says: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(WeightsError, match=says):
        load_into(network, {**network.state_dict(), key: torch.ones(1)}, source="other.pt")
