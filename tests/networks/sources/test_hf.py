"""Repositories of the Hugging Face Hub by name."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from loopback import COMMIT, Answer, Server, hub_headers, missing
from PIL import Image

import edcompress
from edcompress.core.recipe.weights_name import Offer, weights_name
from edcompress.networks import hub_files
from edcompress.networks.sources.hf import find

Cli = Callable[..., Any]
NAME = "hf:someone/tiny"
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def body() -> bytes:
    """Weights of a tiny network of timm with ten classes."""
    torch.manual_seed(0)
    return safetensors.torch.save(timm.create_model("test_resnet", num_classes=10).state_dict())


@pytest.fixture(scope="module")
def files(body: bytes) -> dict[str, bytes]:
    """A repository as timm saves it, with bicubic preprocessing."""
    about = {"tag": "mine", "input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
             "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.25, 0.3], "num_classes": 10}  # fmt: skip
    config = {"architecture": "test_resnet", "num_classes": 10, "num_features": 96, "pretrained_cfg": about}
    card = b"---\nlicense: mit\n---\n# tiny\n"
    return {FILE: body, "config.json": json.dumps(config).encode(), "README.md": card, "pytorch_model.bin": b"pickle"}


@pytest.fixture
def tiny(hub: Server, files: dict[str, bytes]) -> Server:
    hub.serve_repository("someone/tiny", files, licence="mit")
    return hub


def offer(name: str) -> Offer:
    found = weights_name(name)
    assert found
    return find(found).offer


def in_cache(cache: Path, files: dict[str, bytes], repo: str = "someone/tiny") -> Path:
    """Lay a repository into a cache of huggingface_hub, as a copy without links."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name, body in files.items():
        (snapshot / name).write_bytes(body)
    return snapshot


def test_a_repository_gives_network_classes_preprocessing_and_licence(
    cli: Cli, tiny: Server, recipe: Path, hf_cache: Path
) -> None:
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    assert "timm:test_resnet" in found.out
    said = found.err.replace("\n", "")
    assert f"weights {NAME}: {FILE}, 1.5 MB, licence: mit; fetching {tiny.url}/someone/tiny to {hf_cache}" in said
    assert (hf_cache / "models--someone--tiny" / "snapshots" / COMMIT / FILE).is_file()
    tiny.asked.clear()
    again = cli("inspect", NAME, "-r", recipe)
    assert again.code == 0
    assert "fetching" not in again.err
    assert not any(path.startswith("GET /someone") and path.endswith(FILE) for path in tiny.asked)
    assert not any("pytorch_model.bin" in path for path in tiny.asked)


def test_python_completes_the_recipe_too(tiny: Server, recipe: Path) -> None:  # noqa: ARG001
    read = edcompress.read_recipe(recipe, weights=NAME)
    assert (read.model.arch, read.model.num_classes) == ("timm:test_resnet", 10)
    assert (read.data.image_size, read.data.resize, read.data.interpolation) == (32, 35, "bicubic")
    assert (read.data.mean, read.data.std) == ((0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
    assert edcompress.inspect(NAME, read).network == "timm:test_resnet"


def test_check_tries_them_with_what_their_source_says(cli: Cli, tiny: Server, recipe: Path) -> None:  # noqa: ARG001
    found = cli("check", recipe, "--weights", NAME, "--no-timing", "--json")
    assert found.code == 0, found.err
    (checked,) = json.loads(found.out)
    assert (checked["weights"], checked["network"], checked["faults"]) == (NAME, "timm:test_resnet", [])
    assert "licence: mit" in found.err
    unlike = cli(
        "check",
        recipe,
        "--weights",
        NAME,
        "--no-timing",
        "--json",
        "--set",
        "data.mean=[0.5]",
        "--set",
        "data.std=[0.5]",
    )
    (warning,) = [text for text in json.loads(unlike.out)[0]["warnings"] if "prepares images differently" in text]
    assert "data.mean is (0.5,), and (0.3, 0.4, 0.5) at the source" in warning
    refused = cli("check", recipe, "--weights", "hf:someone/nothing", "--no-timing")
    assert (refused.code, "someone/nothing" in refused.err) == (2, True)


def test_init_takes_network_and_preprocessing_from_their_source(cli: Cli, tiny: Server, tmp_path: Path) -> None:  # noqa: ARG001
    for name in ("ant", "bee"):
        for part in ("train", "val"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(5):
                Image.effect_noise((60, 50), 90.0).save(tmp_path / "photos" / part / name / f"{i}.png")
    path = tmp_path / "my.yaml"
    made = cli("init", path, "--weights", NAME, "--images", tmp_path / "photos")
    assert made.code == 0, made.err
    assert f"next: edcompress check {path} --weights {NAME}" in made.out
    assert "licence: mit" in made.err
    assert f"{NAME}" in path.read_text()
    read = edcompress.read_recipe(path)
    assert (read.model.arch, read.model.num_classes, read.model.reset_head) == ("timm:test_resnet", 2, True)
    assert (read.data.image_size, read.data.resize, read.data.interpolation) == (32, 35, "bicubic")
    assert (read.data.mean, read.data.std) == ((0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
    checked = cli("check", path, "--weights", NAME, "--no-timing")
    assert checked.code == 0, checked.err


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_revision_can_be_given(cli: Cli, tiny: Server, recipe: Path, revision: str) -> None:
    assert cli("inspect", f"{NAME}@{revision}", "-r", recipe).code == 0
    assert f"GET /api/models/someone/tiny/revision/{revision}" in tiny.asked


def test_shards_are_fetched_together(cli: Cli, hub: Server, recipe: Path, files: dict[str, bytes], body: bytes) -> None:
    tensors = safetensors.torch.load(body)
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in (0, 1)}
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    kept = {name: content for name, content in files.items() if name != FILE}
    parts = {shard: safetensors.torch.save({name: tensors[name] for name in held}) for shard, held in shards.items()}
    hub.serve_repository("someone/tiny", {**kept, **parts, "model.safetensors.index.json": json.dumps(index).encode()})
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    hub.serve_repository(
        "someone/lacking",
        {**kept, "model.safetensors.index.json": json.dumps(index).encode(), **dict([*parts.items()][:1])},
    )
    refused = cli("inspect", "hf:someone/lacking", "-r", recipe)
    assert refused.code == 2
    assert "lacks model-00002-of-00002.safetensors" in refused.err


def test_one_of_several_files_is_chosen_by_its_name(
    cli: Cli, hub: Server, recipe: Path, files: dict[str, bytes], body: bytes
) -> None:
    kept = {name: content for name, content in files.items() if name != FILE}
    hub.serve_repository("someone/two", {**kept, "a.safetensors": body, "sub/b.safetensors": body})
    refused = cli("inspect", "hf:someone/two", "-r", recipe)
    assert refused.code == 2
    assert "has 2 files of weights; choose one by hf:someone/two/FILE: a.safetensors, sub/b.safetensors" in refused.err
    assert cli("inspect", "hf:someone/two/sub/b.safetensors", "-r", recipe).code == 0
    assert "did you mean 'a.safetensors'?" in cli("inspect", "hf:someone/two/aa.safetensors", "-r", recipe).err


def test_a_repository_of_pickles_is_refused(cli: Cli, hub: Server, recipe: Path, files: dict[str, bytes]) -> None:
    hub.serve_repository("someone/old", {name: content for name, content in files.items() if name != FILE})
    refused = cli("inspect", "hf:someone/old", "-r", recipe)
    assert refused.code == 2
    assert "someone/old has no safetensors, only pytorch_model.bin: pickles, which can run code" in refused.err
    assert not any("pytorch_model.bin" in path for path in hub.asked)


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("RepoNotFound", 404, "there is no public repository someone/tiny of models"),
        ("RepoNotFound", 401, "there is no public repository someone/tiny of models"),
        ("GatedRepo", 403, "is gated: accept its conditions"),
    ],
)
def test_a_repository_that_is_not_there_or_closed(
    cli: Cli, hub: Server, recipe: Path, code: str, status: int, says: str
) -> None:
    hub.answers["/api/models/someone/tiny"] = missing(code, status)
    refused = cli("prune", NAME, "-r", recipe, "-o", recipe.parent / "run")
    assert refused.code == 2
    assert says in refused.err
    assert not (recipe.parent / "run").exists()


def test_a_mirror_that_gives_no_reason_answers_404_too(cli: Cli, recipe: Path, hub: Server) -> None:
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert f"404 Not Found' for url '{hub.url}/api/models/someone/tiny" in refused.err


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "card", [b"no front matter", b"---\n- a\n---\n", b"---\n: : {\n---\n", b"---\nlicense: [mit, bsd]\n---\n"]
)
def test_a_card_without_a_licence_hinders_nothing(
    cli: Cli, recipe: Path, hf_cache: Path, files: dict[str, bytes], card: bytes
) -> None:
    in_cache(hf_cache, {**files, "README.md": card})
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    assert ("licence: mit, bsd;" if b"bsd" in card else "licence: not stated") in found.err.replace("\n", "")


def test_a_revision_that_is_not_there(cli: Cli, tiny: Server, recipe: Path) -> None:
    tiny.answers["/api/models/someone/tiny/revision/v9"] = missing("RevisionNotFound")
    assert "someone/tiny has no revision 'v9'" in cli("inspect", f"{NAME}@v9", "-r", recipe).err


@pytest.mark.parametrize("name", ["hf:tiny", "hf:", "hf:a b/c", "hf:/tiny"])
def test_a_name_without_owner_is_refused(cli: Cli, recipe: Path, name: str) -> None:
    refused = cli("inspect", name, "-r", recipe)
    assert refused.code == 2
    assert "write hf:OWNER/NAME" in refused.err


def test_a_wrong_checksum_leaves_nothing(cli: Cli, tiny: Server, recipe: Path, body: bytes, hf_cache: Path) -> None:
    path = f"/someone/tiny/resolve/main/{FILE}"
    tiny.answers[path] = Answer(body[:-1] + b"!", headers=hub_headers(FILE, body))
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert "and the Hub says" in refused.err
    assert "nothing of it was kept, try again" in refused.err
    assert not [file for file in hf_cache.rglob("*") if file.is_file() and file.stat().st_size == len(body)]
    tiny.answers[path] = Answer(body, headers=hub_headers(FILE, body))
    assert cli("inspect", NAME, "-r", recipe).code == 0


@pytest.mark.usefixtures("retries_at_once")
def test_half_a_file_leaves_nothing(cli: Cli, tiny: Server, recipe: Path, body: bytes, hf_cache: Path) -> None:
    path = f"/someone/tiny/resolve/main/{FILE}"
    tiny.answers[path] = Answer(body[:9000], headers=hub_headers(FILE, body), length=len(body))
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert "did not arrive whole" in refused.err
    assert not [file for file in hf_cache.rglob("*") if file.is_file() and file.stat().st_size >= 9000]


@pytest.mark.usefixtures("offline")
def test_files_in_the_cache_need_no_connection(cli: Cli, recipe: Path, hf_cache: Path, files: dict[str, bytes]) -> None:
    snapshot = in_cache(hf_cache, files)
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    assert "licence: mit; in" in found.err.replace("\n", "")
    assert f"no checksum of {snapshot / FILE} is known" in found.err


def test_a_copy_in_the_cache_is_checked_where_the_hub_answers(
    cli: Cli, tiny: Server, recipe: Path, hf_cache: Path, files: dict[str, bytes], body: bytes
) -> None:
    snapshot = in_cache(hf_cache, files)
    found = cli("inspect", NAME, "-r", recipe)
    assert found.code == 0, found.err
    assert "no checksum" not in found.err
    (snapshot / FILE).write_bytes(body[:-1] + b"!")
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert f"delete {snapshot / FILE} to download it again" in refused.err
    assert (snapshot / FILE).read_bytes() == body[:-1] + b"!"
    assert not any(path.endswith(FILE) for path in tiny.asked if path.startswith("GET /someone"))


@pytest.mark.usefixtures("offline")
def test_what_was_fetched_serves_without_a_connection(
    cli: Cli, tiny: Server, recipe: Path, monkeypatch: pytest.MonkeyPatch, hf_cache: Path, body: bytes
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert cli("inspect", NAME, "-r", recipe).code == 0
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tiny.asked.clear()
    assert cli("inspect", NAME, "-r", recipe).code == 0
    assert tiny.asked == []
    blob = (hf_cache / "models--someone--tiny" / "snapshots" / COMMIT / FILE).resolve()
    blob.write_bytes(body[:-1] + b"!")
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert f"delete {blob} to download it again" in refused.err
    assert blob.exists()


@pytest.mark.usefixtures("offline")
def test_without_a_connection_it_says_what_to_fetch_and_where_to_put_it(cli: Cli, recipe: Path, hf_cache: Path) -> None:
    refused = cli("inspect", f"{NAME}@v1", "-r", recipe)
    assert refused.code == 2
    folder = hf_cache / "models--someone--tiny"
    assert "huggingface.co cannot be reached" in refused.err
    assert "it is model.safetensors and config.json of https://huggingface.co/someone/tiny" in refused.err
    assert "run `hf download someone/tiny config.json model.safetensors --revision v1` elsewhere" in refused.err
    assert f"copy that folder of its cache to {folder}" in refused.err


def test_a_hub_in_trouble_falls_back_to_the_cache(
    cli: Cli, hub: Server, recipe: Path, hf_cache: Path, files: dict[str, bytes]
) -> None:
    hub.answers["/api/models/someone/tiny"] = Answer(status=503)
    assert "cannot be reached (" in cli("inspect", NAME, "-r", recipe).err
    in_cache(hf_cache, files)
    assert cli("inspect", NAME, "-r", recipe).code == 0


def test_a_page_in_place_of_the_hub_is_no_answer(cli: Cli, hub: Server, recipe: Path) -> None:
    """As the log-in page of a network in a hotel is."""
    hub.answers["/api/models/someone/tiny"] = Answer(b"<html>please log in</html>")
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert "cannot be reached (" in refused.err


class TestOtherConfigurations:
    """Of transformers, and of networks that an architecture's name does not build."""

    def serve(self, hub: Server, body: bytes, **configs: object) -> Offer:
        files = {f"{name}.json": json.dumps(config).encode() for name, config in configs.items()}
        hub.serve_repository("someone/tiny", {FILE: body, **files})
        return offer(NAME)

    def test_transformers_gives_classes_and_preprocessing(self, hub: Server, body: bytes) -> None:
        config = {"architectures": ["ResNetForImageClassification"], "id2label": {str(i): str(i) for i in range(7)}}
        processor = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, "image_mean": [0.4] * 3,
                     "image_std": [0.3] * 3}  # fmt: skip
        found = self.serve(hub, body, config=config, preprocessor_config=processor)
        data = {"image_size": 224, "resize": 256, "mean": (0.4,) * 3, "std": (0.3,) * 3, "interpolation": "bicubic"}
        assert found.values == {"model": {"num_classes": 7}, "data": data}
        assert "is ResNetForImageClassification in config.json: model.arch or model.factory" in found.notes[0]

    @pytest.mark.parametrize(
        ("processor", "values"),
        [
            ({"size": {"height": 224, "width": 224}, "resample": 2}, {"image_size": 224, "resize": None, "interpolation": "bilinear"}),
            ({"size": 224, "resample": 1}, {"image_size": 224, "resize": None, "interpolation": "lanczos"}),
            ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
             {"image_size": 224, "resize": 256}),
            ({"size": {"shortest_edge": 384}, "crop_pct": 0.95}, {"image_size": 384, "resize": None}),
            ({"size": {"height": 224, "width": 192}, "do_normalize": False}, {"mean": (0.0,), "std": (1.0,)}),
        ],
    )  # fmt: skip
    def test_processors(self, hub: Server, body: bytes, processor: object, values: object) -> None:
        assert self.serve(hub, body, preprocessor_config=processor).values["data"] == values

    def test_arguments_of_a_network_need_a_factory(
        self, cli: Cli, hub: Server, body: bytes, recipe: Path, files: dict[str, bytes]
    ) -> None:
        config = json.loads(files["config.json"]) | {"model_args": {"img_size": 48}}
        assert "arch" not in self.serve(hub, body, config=config).values["model"]
        refused = cli("inspect", NAME, "-r", recipe)
        assert refused.code == 2
        assert "model: give exactly one of arch and factory" in refused.err
        assert (
            "the weights: it is built with arguments {'img_size': 48}, which model.arch cannot express" in refused.err
        )

    def test_a_damaged_configuration(self, cli: Cli, hub: Server, body: bytes, recipe: Path) -> None:
        hub.serve_repository("someone/tiny", {FILE: body, "config.json": b"{"})
        refused = cli("inspect", NAME, "-r", recipe)
        assert refused.code == 2
        assert "config.json of someone/tiny is not valid JSON" in refused.err

    def test_values_that_no_recipe_may_have(
        self, cli: Cli, tiny: Server, recipe: Path, files: dict[str, bytes]
    ) -> None:
        config = json.loads(files["config.json"])
        config["pretrained_cfg"]["std"] = [0, 0, 0]
        tiny.serve_repository("someone/tiny", {**files, "config.json": json.dumps(config).encode()})
        refused = cli("inspect", NAME, "-r", recipe)
        assert refused.code == 2
        assert "data.std.0: " in refused.err


def test_without_huggingface_hub_it_says_what_to_install(
    cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused = cli("inspect", NAME, "-r", recipe)
    assert refused.code == 2
    assert "pip install 'edcompress[hf]'" in refused.err


@pytest.mark.integration
def test_the_endpoint_and_the_cache_of_the_environment_are_used(
    process: Cli, server: Server, recipe: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    server.serve_repository("someone/tiny", files)
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    found = process("inspect", NAME, "-r", recipe, env=environment)
    assert found.code == 0, found.err
    assert (tmp_path / "home" / "hub" / "models--someone--tiny" / "snapshots" / COMMIT / FILE).is_file()


def test_the_cache_folder_is_that_of_the_library(tiny: Server, hf_cache: Path) -> None:  # noqa: ARG001
    offer(NAME)
    assert hub_files.cache_folder("someone/tiny").is_dir()
    assert hub_files.cache_folder("someone/tiny").parent == hf_cache
