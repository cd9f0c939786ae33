"""ResNet-20 and ResNet-56 on the real CIFAR-10, through the real command line, with short budgets."""

import json
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

RECIPE = ("--recipe", "resnet20_cifar10")
SHORT = (*RECIPE, "--set", "data.limit=2000", "--set", "search.epochs=1", "--set", "finetune.epochs=1")
LOOSE = ("--max-top1-drop", "0.3", "--min-speedup", "0.5", "--max-size-ratio", "0.9", "--max-parity", "0.0001",
         "--disturbed", "allow")  # fmt: skip


@pytest.fixture(scope="module")
def resnet20(data_folder: Path) -> Path:
    return data_folder / "checkpoints" / "resnet20-12fca82f.th"


@pytest.fixture(scope="module")
def run(answer, resnet20: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-20 after one epoch of search and one of fine-tuning on 2000 images."""
    folder = tmp_path_factory.mktemp("r20") / "run"
    answer("prune", resnet20, *SHORT, "-o", folder)
    return folder


def test_the_published_resnet20_has_its_accuracy(answer, resnet20: Path) -> None:
    assert answer("evaluate", resnet20, *RECIPE)["top1"] == {"correct": 9173, "total": 10000}


@pytest.mark.slow
def test_the_published_resnet56_has_its_accuracy(answer, data_folder: Path) -> None:
    checkpoint = data_folder / "checkpoints" / "resnet56-4bfd9763.th"
    assert answer("evaluate", checkpoint, "--recipe", "resnet56_cifar10")["top1"] == {"correct": 9339, "total": 10000}


def test_prune_export_and_gate(answer, require, process, run: Path) -> None:
    report = require(run, RECIPE, target=0.5)
    assert report["dense"]["accuracy"]["top1"] == {"correct": 9173, "total": 10000}
    assert (
        report["pruned"]["accuracy"]["top1"]["correct"] > report["after_surgery"]["accuracy"]["top1"]["correct"] > 4000
    )
    verdict = answer("gate", run, *LOOSE)
    assert [check["name"] for check in verdict["checks"]] == ["top1_drop", "speedup", "size_ratio", "parity"]
    assert process("gate", run, "--max-top1-drop", "0.0001").code == 1


def test_inner_channels_and_streams_are_free(run: Path) -> None:
    space = json.loads((run / "space.json").read_text())
    free = {group["name"]: group["channels"] for group in space["groups"] if group["locked"] is None}
    inner = {f"layer{stage}.{block}.conv1": 8 * 2**stage for stage in (1, 2, 3) for block in (0, 1, 2)}
    assert free == {**inner, "conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    plan = json.loads((run / "plan.json").read_text())
    assert {group["name"] for group in plan["groups"]} == set(free)
    assert all(len(group["kept"]) % 8 == 0 for group in plan["groups"])


@pytest.mark.slow
def test_a_prune_killed_during_the_search_goes_on(start, answer, resnet20: Path, run: Path, tmp_path: Path) -> None:
    command = ("prune", resnet20, *SHORT, "-o", tmp_path / "run")
    begun = start(*command)
    log, deadline = tmp_path / "run" / "search.jsonl", time.monotonic() + 300
    while not (log.exists() and log.read_text()):
        assert begun.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun.send_signal(signal.SIGKILL)
    begun.communicate()
    assert not (tmp_path / "run" / "plan.json").exists()
    report = answer(*command, "--resume")
    assert (tmp_path / "run" / "plan.json").read_bytes() == (run / "plan.json").read_bytes()
    assert report["pruned"]["accuracy"] == json.loads((run / "report.json").read_text())["pruned"]["accuracy"]
