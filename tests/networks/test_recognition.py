"""Networks are recognised by the names and shapes of their tensors."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from edcompress.core.recipe.model import Model
from edcompress.networks.fingerprints import fingerprint, timm_names
from edcompress.networks.outlines import outline
from edcompress.networks.recognition import recognise
from edcompress.networks.registry import build
from edcompress.networks.weight_files import read_state_dict

pytestmark = pytest.mark.usefixtures("networks_are_outlined_once")


def tensors_of(**model: object) -> dict[str, Tensor]:
    return outline(lambda: build(Model.model_validate(model))).state_dict()


@pytest.mark.parametrize(
    "model",
    [
        {"arch": "resnet20", "num_classes": 10},
        {"arch": "resnet18", "num_classes": 3},
        {"arch": "resnet18", "num_classes": 3, "stem": "cifar", "in_channels": 1},
        {"arch": "vgg16_bn", "num_classes": 7},
        {"arch": "squeezenet1_1", "num_classes": 1009},
        {"arch": "regnet_y_400mf", "num_classes": 5},
    ],
    ids=lambda model: str(model["arch"]),
)
def test_classes_input_channels_and_stem_come_from_the_shapes(model: dict[str, object]) -> None:
    assert [found.model_dump(exclude_defaults=True) for found in recognise(tensors_of(**model)).models] == [model]


def test_prefixes_and_wrappers_of_training_scripts_do_not_matter(tmp_path: Path) -> None:
    inner = torchvision.models.mobilenet_v3_small(num_classes=4).state_dict()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.model.{key}": value for key, value in inner.items()}}, tmp_path / "a.pt"
    )
    (found,) = recognise(read_state_dict(tmp_path / "a.pt")).models
    assert (found.arch, found.num_classes) == ("mobilenet_v3_small", 4)


def test_timms_networks_of_the_same_shapes_are_listed_and_the_file_name_decides() -> None:
    tensors = outline(lambda: timm.create_model("efficientnet_lite0", num_classes=12)).state_dict()
    plain = recognise({f"model.{key}": value for key, value in tensors.items()})
    assert [model.arch for model in plain.models] == ["timm:efficientnet_lite0", "timm:tf_efficientnet_lite0"]
    assert {model.num_classes for model in plain.models} == {12}
    named = recognise(tensors, hint="TF_EfficientNet_Lite0-finetuned")
    assert named.models[0].arch == "timm:tf_efficientnet_lite0"


def test_a_changed_head_is_named_beside_the_nearest_network() -> None:
    network = torchvision.models.resnet18()
    network.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 3))
    found = recognise(network.state_dict())
    assert found.models == ()
    assert found.nearest == (
        "resnet18 is nearest, with 120 equal tensors; different: fc.1.weight, fc.1.bias, fc.weight, fc.bias"
    )


def test_unknown_tensors_have_no_nearest_network() -> None:
    found = recognise({"a.weight": torch.zeros(3, 3), "b.weight": torch.zeros(2, 3)})
    assert (found.models, found.nearest) == ((), "")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet26d", "vit_tiny_patch16_224", "mobilenetv4_conv_small"])
def test_the_stored_fingerprints_are_those_of_the_networks_whatever_their_classes(name: str) -> None:
    assert name in list(timm_names(outline(lambda: timm.create_model(name, num_classes=6)).state_dict()))


def test_a_fingerprint_changes_with_any_other_tensor() -> None:
    tensors = {
        "stem.weight": torch.zeros(8, 3, 3, 3),
        "body.weight": torch.zeros(8, 8),
        "head.weight": torch.zeros(5, 8),
    }
    one = fingerprint(tensors, ["stem"], ["head"])
    assert one == fingerprint({**tensors, "head.weight": torch.zeros(9, 8)}, ["stem"], ["head"])
    assert one == fingerprint({**tensors, "stem.weight": torch.zeros(8, 1, 3, 3)}, ["stem"], ["head"])
    assert one != fingerprint({**tensors, "body.weight": torch.zeros(8, 9)}, ["stem"], ["head"])


def test_an_outline_has_the_shapes_and_no_values() -> None:
    state = tensors_of(arch="resnet20", num_classes=10)
    real = build(Model(arch="resnet20", num_classes=10)).state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in real.items()}
    assert all(value.is_meta for value in state.values())
