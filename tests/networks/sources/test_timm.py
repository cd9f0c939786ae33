"""timm's networks by name."""

import hashlib
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from loopback import Answer, Server, hub_headers

import edcompress
from edcompress.core.errors import WeightsError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.weights_name import Offer, weights_name
from edcompress.networks.sources.timm import find
from edcompress.networks.timm_values import offer_of_timm

Cli = Callable[..., Any]
NAME, REPO = "timm:test_resnet.r160_in1k", "timm/test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = timm.create_model("test_resnet")
    return made


@pytest.fixture(scope="module")
def body(network: torch.nn.Module) -> bytes:
    return safetensors.torch.save(network.state_dict())


@pytest.fixture
def served(hub: Server, body: bytes) -> Server:
    hub.serve_repository(REPO, {"model.safetensors": body, "config.json": b"{}"})
    return hub


def offer(name: str) -> Offer:
    found = weights_name(name)
    assert found
    return find(found).offer


def test_network_classes_and_preprocessing_come_from_the_name(cli: Cli, served: Server, recipe: Path) -> None:
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    assert NAME in found.out
    assert f"weights {NAME}: model.safetensors, 1.9 MB, licence: apache-2.0; fetching {served.url}/{REPO} to" in (
        found.err.replace("\n", "")
    )
    read = edcompress.read_recipe(recipe, weights=NAME)
    assert (read.model.arch, read.model.num_classes, read.data.image_size, read.data.resize) == (NAME, 1000, 160, 168)
    assert edcompress.inspect(NAME, read).network == NAME


def test_bicubic_and_the_crop_are_those_of_timm() -> None:
    data = offer("timm:resnet50.a1_in1k").values["data"]
    assert (data["interpolation"], data["image_size"], data["resize"]) == ("bicubic", 224, 235)
    transform = timm.data.create_transform(224, interpolation="bicubic", crop_pct=0.95)
    assert transform.transforms[0].size == 235
    whole = next(name for name in timm.list_pretrained() if as_a_whole(timm.get_pretrained_cfg(name)))
    assert offer(f"timm:{whole}").values["data"]["resize"] is None


def as_a_whole(description: Any) -> bool:
    return bool(description.crop_mode == "squash" and description.crop_pct == 1.0 and not description.custom_load)


def test_what_a_recipe_cannot_express_is_said() -> None:
    border = next(name for name in timm.list_pretrained() if timm.get_pretrained_cfg(name).crop_mode == "border")
    assert "crop mode 'border' is replaced by a centre crop" in offer(f"timm:{border}").notes[0]
    features = next(name for name in timm.list_pretrained() if not timm.get_pretrained_cfg(name).num_classes)
    assert "it has no classifier: it gives features" in offer(f"timm:{features}").notes
    assert "num_classes" not in offer(f"timm:{features}").values["model"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm:resnet50", "write one of timm's"),
        ("timm:resnet50.a1_in2k", "did you mean 'timm:resnet50.a1_in1k'?"),
        ("timm:resnot50.a1_in1k", "has no such network; did you mean"),
        ("timm:", "has no such network"),
        ("timm:flexivit_base.300ep_in1k", "in a format of its own"),
    ],
)
def test_an_unknown_name_says_which_there_are(cli: Cli, recipe: Path, name: str, says: str) -> None:
    refused = cli("prune", name, "-r", recipe, "-o", recipe.parent / "run")
    assert refused.code == 2
    assert says in refused.err
    assert not (recipe.parent / "run").exists()


def test_a_network_with_one_set_of_weights_needs_no_tag(cli: Cli, served: Server, recipe: Path) -> None:  # noqa: ARG001
    assert cli("inspect", "timm:test_resnet", "-r", recipe).code == 0


def test_weights_outside_the_hub_come_from_their_url(
    server: Server, hub_cache: Path, network: torch.nn.Module, cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    body, own = buffer.getvalue(), timm.get_pretrained_cfg
    file = f"tiny-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    url = server.serve_file(f"/{file}", body)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: replace(own(name), url=url, hf_hub_id=None))
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    assert (hub_cache / file).read_bytes() == body
    monkeypatch.setattr(
        timm, "get_pretrained_cfg", lambda name: replace(own(name), url=server.url + "/a.pth", hf_hub_id=None)
    )
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert f"no checksum of {server.url}/a.pth is known" in refused.err


@pytest.mark.usefixtures("retries_at_once")
def test_404_wrong_checksum_and_half_a_file(
    cli: Cli, served: Server, recipe: Path, body: bytes, hf_cache: Path
) -> None:
    path, headers = f"/{REPO}/resolve/main/model.safetensors", hub_headers("model.safetensors", body)
    for answer, says in (
        (Answer(status=404, headers={"X-Error-Code": "EntryNotFound"}), "404"),
        (Answer(body[:-1] + b"!", headers=headers), "and the Hub says"),
        (Answer(body[:9000], headers=headers, length=len(body)), "did not arrive whole"),
    ):
        served.answers[path] = answer
        refused = cli("inspect", NAME, "-r", recipe)
        assert refused.code == 2
        assert says in refused.err
        assert not [file for file in hf_cache.rglob("*") if file.is_file() and file.stat().st_size >= 9000]


@pytest.mark.usefixtures("offline", "hf_cache")
def test_without_a_connection_it_says_what_to_fetch(cli: Cli, recipe: Path) -> None:
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert f"run `hf download {REPO} config.json model.safetensors` elsewhere" in refused.err


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"needs timm, which is not installed: pip install 'edcompress\[timm\]'"):
        offer(NAME)


@pytest.mark.parametrize("step", [25, pytest.param(1, marks=pytest.mark.slow)])
def test_timms_weights_give_a_valid_recipe(step: int) -> None:
    for name in timm.list_pretrained()[::step]:
        if timm.get_pretrained_cfg(name).custom_load:
            continue
        values = offer(f"timm:{name}").values
        model = {"num_classes": 10, **values["model"]}
        tree = {"model": model, "data": {"dataset": "digits", "image_size": 32, **values["data"]}}
        if tree["data"]["image_size"] <= 1024:
            assert Recipe.model_validate(tree).model.arch == f"timm:{name}"


def test_rectangular_images_keep_their_size_and_what_differs_is_noted() -> None:
    about = {"input_size": (3, 24, 32), "crop_pct": 0.9, "crop_mode": "center", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    offer = offer_of_timm("timm:some", about, 5)
    assert (offer.values["data"]["image_size"], offer.values["data"]["resize"]) == ((24, 32), None)
    assert offer.notes == ("timm keeps the ratio of an image's sides; here each image is stretched to 24x32",)
