"""SqueezeNet 1.1 with its 1000-way head on the real Imagenette folders, through the real command line, in a short run on smaller images."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

RECIPE = ("--recipe", "squeezenet1_1_imagenette")
SMALLER = ("--set", "data.image_size=128", "--set", "data.resize=146")
SHORT = tuple(
    word
    for pair in ("data.limit=64", "search.epochs=1", "search.evolve_every=1", "finetune.epochs=1", "benchmark.runs=50",
                 "gate.max_top1_drop=1.0", "gate.min_speedup=0.5", "gate.disturbed=allow")
    for word in ("--set", pair)
)  # fmt: skip


@pytest.fixture(scope="module")
def squeezenet(data_folder: Path) -> Path:
    return data_folder / "checkpoints" / "squeezenet1_1-deepscale-fp16.pth"


def test_the_published_squeezenet_has_its_accuracy(answer, squeezenet: Path) -> None:
    accuracy = answer("evaluate", squeezenet, *RECIPE)
    assert accuracy["top1"] == {"correct": 267, "total": 500}
    assert accuracy["top5"] == {"correct": 392, "total": 500}


def test_run_prunes_exports_and_gates_and_benchmark_measures_the_pair(
    answer, require, process, squeezenet: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    ended = process("run", *RECIPE, squeezenet, *SMALLER, *SHORT, "-o", folder)
    assert ended.code == 0, ended.err
    assert "Gate: pass" in ended.out
    assert "Warning" not in ended.err
    report = require(folder, (*RECIPE, *SMALLER), target=0.7)
    assert report["dense"]["accuracy"]["top1"] == answer("evaluate", squeezenet, *RECIPE, *SMALLER)["top1"]
    assert report["dense"]["accuracy"]["top1"]["total"] == 500
    latency = answer("benchmark", folder, "--runs", "50")
    assert {path: value[0]["n"] for path, value in latency.items()} == {
        str(folder / "dense.onnx"): 50,
        str(folder / "pruned.onnx"): 50,
    }
    space = json.loads((folder / "space.json").read_text())
    assert sum(group["locked"] is None for group in space["groups"]) > 8
