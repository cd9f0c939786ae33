"""Weights by name through whole runs: recipe, report, card, metadata, resuming."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import onnx
import pytest
import safetensors.torch
import timm
import torch
import yaml
from digits import Interrupter
from launcher import EDCOMPRESS, TORCHRUN
from loopback import COMMIT, Server

import edcompress
from edcompress.core.system.context import RunOptions
from edcompress.core.system.distributed import ProcessGroup
from edcompress.core.system.monitor import NullMonitor
from edcompress.networks.named_weights import record_of
from edcompress.runs.folder import RunFolder
from edcompress.workflows.weights import open_weights

Cli = Callable[..., Any]
NAME = "hf:someone/tiny"
QUICK = ("--set", "search.epochs=1", "--set", "finetune.epochs=1", "--set", "benchmark.runs=20", "--set", "gate.disturbed=allow",
         "--set", "data.limit=200", "--set", "search.evolve_every=2", "--set", "data.batch_size=50")  # fmt: skip


class Notes(NullMonitor):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A Hub with one small repository for digits in colour, and an empty cache."""
    torch.manual_seed(0)
    about = {"input_size": [3, 24, 24], "interpolation": "bicubic", "crop_pct": 0.75, "crop_mode": "center",
             "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.25, 0.3]}  # fmt: skip
    config = {"architecture": "test_resnet", "num_classes": 10, "pretrained_cfg": about}
    body = safetensors.torch.save(timm.create_model("test_resnet", num_classes=10).state_dict())
    with Server().running() as running:
        running.serve_repository(
            "someone/tiny", {"model.safetensors": body, "config.json": json.dumps(config).encode()}, "mit"
        )
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        yield running


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("data: {dataset: digits, channels: 3}\ntarget: {macs: 0.8}\n")
    return path


@pytest.mark.integration
def test_a_name_runs_through_to_card_and_metadata(cli: Cli, server: Server, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ran = cli("run", NAME, "-r", recipe, *QUICK, "-o", folder)
    assert ran.code in (0, 1), ran.err  # random weights: the gate may fail
    assert "licence: mit" in ran.err
    assert "random weights" not in ran.err
    data = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert data["model"]["arch"] == "timm:test_resnet"
    assert (data["data"]["image_size"], data["data"]["resize"], data["data"]["interpolation"]) == (24, 32, "bicubic")
    assert data["data"]["mean"] == [0.3, 0.4, 0.5]

    report = RunFolder(folder).read_report()
    cached = tmp_path / "hf" / "models--someone--tiny" / "snapshots" / COMMIT / "model.safetensors"
    assert report.checkpoint == NAME
    assert report.source
    assert report.source.address == f"{server.url}/someone/tiny/tree/{COMMIT}"
    assert report.source.license == "mit"
    assert report.source.files == {"model.safetensors": record_of(cached)}

    card = (folder / "model_card.md").read_text()
    assert (
        "resized to a short side of 32, centre-cropped to 24 x 24, bicubic with antialiasing as Pillow does it" in card
    )
    assert "Image.Resampling.BICUBIC" in card
    assert f"`{NAME}` ({server.url}/someone/tiny/tree/{COMMIT}; licence mit)" in card
    for name in ("dense.onnx", "pruned.onnx"):
        metadata = {entry.key: entry.value for entry in onnx.load(folder / name).metadata_props}
        prepared = json.loads(metadata["edcompress.preprocessing"])
        assert (prepared["interpolation"], prepared["antialias"], prepared["resize"]) == ("bicubic", True, 32)

    again = tmp_path / "again"
    pruned = cli("prune", folder, "-r", folder / "recipe.yaml", "--set", "target.macs=0.6", "-o", again)
    assert pruned.code == 0, pruned.err
    assert RunFolder(again).read_report().source == report.source  # of the network that the first run began with


def test_an_interrupted_run_continues_by_the_same_name_without_a_connection(
    cli: Cli, server: Server, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = tmp_path / "run", [word for word in QUICK if word != "--set"]
    checked = edcompress.read_recipe(recipe, settings, weights=NAME)
    with pytest.raises(KeyboardInterrupt):
        edcompress.prune(NAME, checked, folder, options=RunOptions("cpu", monitor=Interrupter("finetune", 0)))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    server.asked.clear()
    resumed = cli("prune", NAME, "-r", recipe, *QUICK, "-o", folder, "--resume")
    assert resumed.code == 0, resumed.err
    assert server.asked == []
    report = RunFolder(folder).read_report()
    assert report.checkpoint == NAME
    assert report.source
    assert report.source.license == "mit"


@pytest.mark.integration
@pytest.mark.parametrize("incomplete", [False, True])
def test_a_run_keeps_its_weights_even_if_the_cache_lost_them(
    server: Server, recipe: Path, tmp_path: Path, incomplete: bool
) -> None:
    """Also if Python gives it a recipe without the preprocessing that followed from them."""
    folder, settings = tmp_path / "run", [word for word in QUICK if word != "--set"]
    checked = edcompress.read_recipe(recipe, settings, weights=NAME)
    with pytest.raises(KeyboardInterrupt):
        edcompress.prune(NAME, checked, folder, options=RunOptions("cpu", monitor=Interrupter("finetune", 0)))
    server.answers.clear()
    (tmp_path / "hf").rename(tmp_path / "gone")
    written = (folder / "recipe.yaml").read_text()
    options = RunOptions("cpu", monitor=NullMonitor())
    if incomplete:
        sets = "model: {arch: 'timm:test_resnet', num_classes: 10}\ndata: {dataset: digits, channels: 3, image_size: 24, resize: 32}\n"
        recipe.write_text(sets + "target: {macs: 0.8}\n")
        checked = edcompress.read_recipe(recipe, settings)
        assert checked.data.mean != (0.3, 0.4, 0.5)
    verb = edcompress.run if incomplete else edcompress.prune
    arguments = (checked, folder, NAME) if incomplete else (NAME, checked, folder)
    report = verb(*arguments, resume=True, options=options)  # type: ignore[operator]
    assert report.source
    assert (folder / "recipe.yaml").read_text() == written


def test_a_python_recipe_is_completed_where_it_sets_nothing(server: Server, tmp_path: Path, recipe: Path) -> None:  # noqa: ARG001
    recipe.write_text(
        "model: {arch: 'timm:test_resnet', num_classes: 10}\n"
        "data: {dataset: digits, channels: 3, image_size: 24, mean: [0.5], std: [0.5]}\ntarget: {macs: 0.8}\n"
    )
    checked, notes = edcompress.read_recipe(recipe), Notes()
    edcompress.evaluate(NAME, checked, RunOptions("cpu", monitor=notes))
    (differ,) = [text for text in notes.warnings if "prepares images differently" in text]
    assert "data.mean is (0.5,), and (0.3, 0.4, 0.5) at the source" in differ
    assert "data.interpolation" not in differ  # the recipe does not set it


@pytest.mark.integration
def test_a_sweep_takes_a_name(cli: Cli, server: Server, recipe: Path, tmp_path: Path) -> None:
    swept = cli("sweep", NAME, "-r", recipe, *QUICK, "--set", "target.macs=0.9,0.8", "-o", tmp_path / "sweep")
    assert swept.code == 0, swept.err
    weights = [path for path in server.asked if path.startswith("GET /someone") and path.endswith(".safetensors")]
    assert len(weights) == 1
    reports = [RunFolder(path.parent).read_report() for path in (tmp_path / "sweep").glob("*/report.json")]
    assert [(report.checkpoint, bool(report.source)) for report in reports] == [(NAME, True)] * 2


@pytest.mark.integration
@pytest.mark.slow
def test_the_trials_of_a_drop_keep_the_source(cli: Cli, server: Server, recipe: Path, tmp_path: Path) -> None:  # noqa: ARG001
    more = ("--set", "target.macs=null", "--set", "target.max_top1_drop=0.9", "--set", "target.trials=1")
    pruned = cli("prune", NAME, "-r", recipe, *QUICK, *more, "-o", tmp_path / "run")
    assert pruned.code == 0, pruned.err
    assert RunFolder(tmp_path / "run").read_report().source


@pytest.mark.integration
def test_run_without_weights_says_that_it_trains(
    cli: Cli, quick: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    ran = cli("run", *quick(), "--quiet", "-o", tmp_path / "run")
    assert "WARNING: no weights were given: resnet8 is trained from random weights first, for 2 epochs" in ran.err
    assert ran.code in (0, 1)
    assert RunFolder(tmp_path / "run").read_report().source is None


def test_other_ranks_get_the_file_of_the_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rank's value is handed to the second, which asks nothing of the server."""
    sent: list[Any] = []

    def run(group: ProcessGroup, make: Callable[[], Any]) -> Any:
        sent.extend([make()] if group.is_main else [])
        return sent[0]

    monkeypatch.setattr(ProcessGroup, "run_on_rank0", run)
    first = open_weights(NAME, NullMonitor(), ProcessGroup(0, 2))
    server.asked.clear()
    assert open_weights(NAME, NullMonitor(), ProcessGroup(1, 2)) == first
    assert server.asked == []
    first.path.unlink()  # as on a further machine
    assert open_weights(NAME, NullMonitor(), ProcessGroup(1, 2)).path.is_file()


@pytest.mark.integration
def test_under_torchrun_the_first_process_alone_asks_the_hub(server: Server, recipe: Path, tmp_path: Path) -> None:
    def started(name: str, folder: str) -> subprocess.CompletedProcess[str]:
        command = [*TORCHRUN, *EDCOMPRESS, "prune"]
        arguments = [name, "-r", str(recipe), *QUICK, "--device", "cpu", "-o", str(tmp_path / folder)]
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
        return subprocess.run(
            command + arguments, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    ran = started(NAME, "run")
    assert ran.returncode == 0, ran.stderr
    assert RunFolder(tmp_path / "run").read_report().source
    for path in ("/api/models/someone/tiny", "/someone/tiny/resolve/main/model.safetensors"):
        assert 1 <= server.asked.count(f"GET {path}") <= 2  # for the recipe, and for the file
    unknown = started("hf:someone/gone", "gone")
    assert unknown.returncode != 0
    assert unknown.stderr.count("check the name of the repository") == 1
    assert not (tmp_path / "gone").exists()
