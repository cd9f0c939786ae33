"""`edcompress check`: every fault at once, and the plan of a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.results.recipe_check import Expectation, ImageCounts, Schedule
from edcompress.networks.load_pruned import CifarResNet
from edcompress.report.render.check_rows import duration
from edcompress.workflows.check import check_recipe
from edcompress.workflows.stages.expectation import Speed, Work, activation_bytes, total_seconds


def checked(cli, *arguments: object) -> tuple[int, list[dict]]:
    ended = cli("check", *arguments, "--json")
    return ended.code, json.loads(ended.out)


def test_the_plan_has_images_groups_steps_generations_time_and_memory(cli, dense: Path) -> None:
    code, (found,) = checked(cli, "digits", "--weights", dense)
    assert (code, found["faults"], found["recipe"], found["weights"]) == (0, [], "digits", str(dense))
    assert found["images"] == {"classes": 10, "train": 1294, "search": 144, "test": 359}
    assert found["groups"] == {"free": 6, "locked": 1, "channels": 224}
    schedule = found["schedule"]
    assert (schedule["batch_size"], schedule["steps_per_epoch"], schedule["search_epochs"]) == (64, 21, 3)
    assert found["expected"]["seconds"] > 0.5
    assert found["expected"]["memory_bytes"] > 100e6


def test_generations_are_those_that_a_run_has(cli, finished: Path, quick) -> None:
    code, (found,) = checked(cli, *quick()[1:2], "--no-timing", *quick()[2:])
    assert code == 0
    report = json.loads((finished / "report.json").read_text())
    assert found["schedule"]["generations"] == report["search"]["generations"]
    assert found["expected"] is None


def test_a_person_sees_the_plan_as_a_table(cli) -> None:
    ended = cli("check", "digits")
    assert ended.code == 0
    assert ended.out.startswith("digits: fine (resnet8 on digits)\n")
    for words in ("random; try yours with --weights", "6 free with 224 channels, 1 locked", "21 per epoch, of 64 images",
                  "3 search, 7 fine-tuning", "generations", "about"):  # fmt: skip
        assert words in ended.out
    assert (
        "none: the method chooses once" in cli("check", "digits", "--no-timing", "--set", "search.method=magnitude").out
    )


def test_few_generations_are_said(cli) -> None:
    ended = cli("check", "digits", "--no-timing", "--set", "search.epochs=1")
    assert ended.code == 0
    assert "warning: digits: the search has only 11 generations, and takes at least 20" in ended.out


def test_all_faults_of_a_recipe_come_at_once(cli, tmp_path: Path) -> None:
    torch.save(CifarResNet(8, 12, 1).state_dict(), tmp_path / "other.pt")
    ended = cli(
        "check", "digits", "--weights", tmp_path / "other.pt", "--set", "data.dataset=image_folder", "--set", "data.folder=nowhere",
        "--set", "benchmark.threads=999",
    )  # fmt: skip
    assert (ended.code, ended.out) == (2, "")
    faults = ended.err.removeprefix("error: ").splitlines()
    assert [any(words in fault for fault in faults) for words in (
        "digits: benchmark.threads is 999, but only", "nowhere", "the weights have 12 classes, the recipe's model.num_classes is 10"
    )] == [True] * 3  # fmt: skip
    assert len(faults) == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.dataset=cifar100", "cifar100 is not at"),
        ("target.macs=0.001", "target.macs = 0.001 is below"),
        ("model.num_classes=4", "model.num_classes is 4, but the data has labels up to 9"),
        ("model.arch=resnet-8", "there is no 'resnet-8'"),
        ("constraints.only=[nothing*]", "'nothing*' matches no layer"),
    ],
)
def test_each_fault_ends_with_2_and_is_in_the_json(cli, tmp_path: Path, override: str, words: str) -> None:
    code, (found,) = checked(cli, "digits", "--no-timing", "--set", override, "--set", f"data.root={tmp_path}")
    assert code == 2
    assert any(words in fault for fault in found["faults"]), found["faults"]


def test_nothing_is_downloaded(cli, tmp_path: Path) -> None:
    settings = ("--set", "data.dataset=cifar100", "--set", "data.download=true", "--set", f"data.root={tmp_path}")
    code, (found,) = checked(cli, "digits", "--no-timing", *settings)
    assert code == 2
    assert f"cifar100 is not at {tmp_path}" in found["faults"][0]
    assert found["faults"][0].endswith("prune and run download it, check does not")
    assert list(tmp_path.iterdir()) == []


def test_a_factory_is_tried_only_when_it_is_trusted(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_net_of_check.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = ("digits", "--no-timing", "--set", "model.arch=null", "--set", "model.factory=user_net_of_check:net")
    code, (found,) = checked(cli, *settings)
    assert (code, found["groups"]) == (0, None)
    assert found["warnings"] == ["model.factory user_net_of_check:net was not tried: it needs --trust-code"]
    code, (found,) = checked(cli, *settings, "--trust-code")
    assert (code, found["groups"]["free"]) == (0, 2)


def test_a_recipe_that_is_not_valid_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("model: {arch: resnet8}\n")
    code = (
        "import sys; from edcompress.__main__ import main; sys.argv = ['edcompress', 'check', 'bad.yaml']\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "False\n")
    assert "bad.yaml: model.num_classes" in ended.stderr


def test_python_gets_the_same_and_no_exception() -> None:
    found = check_recipe(read_recipe("digits", ["data.dataset=cifar100", "data.root=/nowhere"]), timing=False)
    assert found.recipe == "digits"
    assert len(found.faults) == 1
    assert found.groups is not None
    assert found.schedule is None


def test_time_counts_scoring_surgery_reading_and_evaluation() -> None:
    schedule = Schedule(batch_size=10, steps_per_epoch=10, search_epochs=3, finetune_epochs=2, generations=5)
    images = ImageCounts(classes=2, train=100, search=30, test=60)
    found = total_seconds(Speed(train=0.3, read=0.1), schedule, images, Work(1e6, share=0.5))
    assert found == pytest.approx(3 * 100 * (0.4 + 0.1) + 2 * 100 * (0.15 + 0.1) + (5 * 30 + 4 * 60) * (0.1 + 0.1))
    taught = total_seconds(Speed(train=0.3, read=0.1), schedule, images, Work(1e6, share=0.5, taught=True))
    assert taught - found == pytest.approx(5 * 100 * 0.1)
    often = total_seconds(Speed(train=0.3, read=0.1), schedule, images, Work(1e6, share=0.5, scored=4.0))
    assert often - found == pytest.approx(3 * 100 * 0.1 * 3)


def test_activations_are_counted_once_without_the_weights() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.randn(2, 1, 8, 8)
    assert activation_bytes(network, images) == 4 * (
        2 * 64 + 2 * 4 * 36
    )  # the input, and the ReLU's output that two layers share


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "about 1 s"), (80, "about 80 s"), (300, "about 5 min"), (9000, "about 2.5 h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(Expectation(seconds=seconds, memory_bytes=1)) == text


@pytest.mark.parametrize("key", ["max_top1_drop", "max_drop"])
def test_the_trials_of_a_drop_are_counted_whatever_the_metric(cli, dense: Path, key: str) -> None:
    chosen = ("--set", "target.macs=null", "--set", f"target.{key}=0.05", "--set", "target.trials=3")
    ended = cli("check", "digits", "--weights", dense, "--no-timing", "--json", *chosen)
    (found,) = json.loads(ended.out)
    assert found["schedule"]["trials"] == 3
