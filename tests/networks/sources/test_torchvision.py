"""torchvision's classifiers by name."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from loopback import Answer, Server

import edcompress
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.weights_name import weights_name
from edcompress.networks.sources.torchvision import find

Cli = Callable[..., Any]
ENTRY = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
NAME = "torchvision:squeezenet1_1@IMAGENET1K_V1"


@pytest.fixture(scope="module")
def body() -> bytes:
    """A file of weights of SqueezeNet, as torch.save writes them."""
    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture
def served(server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    """The file on the server, whose URL stands in torchvision's entry; its place in the cache."""
    file = f"squeezenet1_1-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setattr(ENTRY.value, "url", server.serve_file(f"/models/{file}", body))
    return hub_cache / file


def values(name: str) -> dict[str, Any]:
    found = weights_name(name)
    assert found
    return {section: dict(keys) for section, keys in find(found).offer.values.items()}


def test_network_classes_and_preprocessing_come_from_the_name(
    cli: Cli, served: Path, recipe: Path, server: Server
) -> None:
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    assert "squeezenet1_1" in found.out
    assert f"weights {NAME}: {served.name}, 5.0 MB, licence: not stated by the source; fetching" in found.err.replace(
        "\n", ""
    )
    assert served.is_file()
    assert cli("inspect", NAME.partition("@")[0], "-r", recipe).code == 0  # it has one set of weights
    assert server.asked == [f"GET /models/{served.name}"]


def test_python_completes_the_recipe_too(served: Path, recipe: Path) -> None:
    read = edcompress.read_recipe(recipe, weights=NAME)
    assert (read.model.arch, read.model.num_classes) == ("squeezenet1_1", 1000)
    assert (read.data.image_size, read.data.resize, read.data.interpolation) == (224, 256, "bilinear")
    assert (read.data.mean, read.data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert edcompress.inspect(NAME, read).network == "squeezenet1_1"
    assert served.is_file()


def test_bicubic_weights_ask_for_bicubic_resizing() -> None:
    data = values("torchvision:efficientnet_b0@IMAGENET1K_V1")["data"]
    assert (data["interpolation"], data["resize"], data["image_size"]) == ("bicubic", 256, 224)
    assert values("torchvision:resnet50@IMAGENET1K_V2")["data"]["resize"] == 232


def test_networks_that_normalise_inside_get_the_same_images() -> None:
    """transform_input turns torchvision's usual normalisation into (x - 0.5) / 0.5."""
    pixels = torch.rand(1, 3, 4, 4)
    network = torchvision.models.googlenet(weights=None, init_weights=False, transform_input=True, aux_logits=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    inside = network._transform_input((pixels - mean) / std)
    data = values("torchvision:googlenet@IMAGENET1K_V1")["data"]
    assert torch.allclose(inside, (pixels - data["mean"][0]) / data["std"][0], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torchvision:resnet5", "did you mean 'torchvision:resnet50'"),
        ("torchvision:deeplabv3_resnet50", "has no such classifier"),
        ("torchvision:resnet50", "write one of torchvision:resnet50@IMAGENET1K_V1, torchvision:resnet50@IMAGENET1K_V2"),
        ("torchvision:resnet50@IMAGENET1K_V3", "did you mean 'IMAGENET1K_V"),
        ("torchvision:resnet50@", "write one of"),
        ("torchvision:vgg16@IMAGENET1K_FEATURES", "there are no such weights"),
        ("torchvision:", "has no such classifier"),
        ("torchvison:resnet50", "no source 'torchvison' of weights; did you mean 'torchvision'?"),
    ],
)
def test_an_unknown_name_says_which_there_are(cli: Cli, recipe: Path, name: str, says: str) -> None:
    refused = cli("prune", name, "-r", recipe, "-o", recipe.parent / "run")
    assert refused.code == 2
    assert says in refused.err
    assert not (recipe.parent / "run").exists()


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet50.a1_in1k"])
def test_a_network_without_a_source_is_pointed_to_one(cli: Cli, name: str) -> None:
    refused = cli("inspect", name, "-r", "digits")
    assert refused.code == 2
    assert (
        f"there is no such file; weights by name are written torchvision:{name}, timm:{name} or hf:OWNER/NAME"
        in refused.err
    )
    assert "weights by name" not in cli("inspect", "missing.pt", "-r", "digits").err


def test_404_wrong_checksum_and_half_a_file(cli: Cli, served: Path, recipe: Path, server: Server, body: bytes) -> None:
    path = f"/models/{served.name}"
    for answer, says in (
        (Answer(status=404), "answers 404"),
        (Answer(body[:-1] + b"?"), "has the SHA-256"),
        (Answer(body[:9000], length=len(body)), "only a part of the file arrived"),
        (Answer(body[:9000]), "has the SHA-256"),  # a server that does not know the length either
    ):
        server.answers[path] = answer
        refused = cli("inspect", NAME, "-r", recipe)
        assert refused.code == 2
        assert says in refused.err
        assert list(served.parent.iterdir()) == []


def test_without_a_connection_it_says_what_to_put_where(
    cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path
) -> None:
    monkeypatch.setattr(ENTRY.value, "url", "http://127.0.0.1:9/models/squeezenet1_1-b8a52dc0.pth")
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert (
        "it is squeezenet1_1-b8a52dc0.pth (5.0 MB) at http://127.0.0.1:9/models/squeezenet1_1-b8a52dc0.pth"
        in refused.err
    )
    assert f"put it at {hub_cache}/squeezenet1_1-b8a52dc0.pth" in refused.err


def test_the_file_that_torch_hub_left_needs_no_connection(
    cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path, body: bytes
) -> None:
    digest = hashlib.sha256(body).hexdigest()[:8]
    monkeypatch.setattr(ENTRY.value, "url", f"http://127.0.0.1:9/models/squeezenet1_1-{digest}.pth")
    hub_cache.mkdir(parents=True)
    (hub_cache / f"squeezenet1_1-{digest}.pth").write_bytes(body)
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    (hub_cache / f"squeezenet1_1-{digest}.pth").write_bytes(body[:-1])
    assert "is damaged or a different file" in cli("inspect", NAME, "-r", recipe).err


@pytest.mark.parametrize("network", torchvision.models.list_models(module=torchvision.models))
def test_all_of_torchvisions_weights_can_be_named(network: str) -> None:
    for entry in torchvision.models.get_model_weights(network):
        if entry.name == "IMAGENET1K_FEATURES":  # VGG-16's, without a classifier
            continue
        found = values(f"torchvision:{network}@{entry.name}")
        tree = {**found, "data": {**found["data"], "dataset": "image_folder", "folder": "x"}}
        assert Recipe.model_validate(tree).model.num_classes == len(entry.meta["categories"])
