"""Metrics other than top-1 through runs, gate and reports, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import edcompress
from edcompress.core.recipe.gate import Gate
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.scores import MetricInfo
from edcompress.core.system.context import RunOptions
from edcompress.report.gate.consistency import faults
from edcompress.report.gate.verdict import judge
from edcompress.runs.reading import read_report
from edcompress.workflows.load import load

CODE = '''
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

@dataclass
class Answer:
    digit: torch.Tensor
    odd: torch.Tensor

class Two(nn.Module):
    """Two heads: which digit, and whether it is odd."""
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU())
        self.digit, self.odd = nn.Linear(24 * 16, 10), nn.Linear(24 * 16, 1)
    def forward(self, images):
        features = self.body(images).flatten(1)
        return Answer(self.digit(features), self.odd(features))

def loss(outputs, labels):
    odd = (labels % 2).float().unsqueeze(1)
    return F.cross_entropy(outputs.digit, labels) + F.binary_cross_entropy_with_logits(outputs.odd, odd)

def both_right(outputs, labels):
    digit = outputs["digit"].argmax(1) == labels
    odd = (outputs["odd"][:, 0] > 0) == (labels % 2 == 1)
    return (digit & odd).double().mean()

def raising(outputs, labels): return outputs["tens"]
def vector(outputs, labels): return outputs["digit"]
'''


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_user.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)


TWO_HEADS = ("model.arch=null", "model.stem=imagenet", "model.factory=two_user:Two", "train.loss=two_user:loss",
             "finetune.loss=two_user:loss", "train.epochs=4", "data.limit=600")  # fmt: skip


@pytest.mark.integration
@pytest.mark.usefixtures("user_code")
def test_two_heads_with_two_losses_and_a_metric_of_ones_own(
    cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    settings = quick(
        *TWO_HEADS, "metric=two_user:both_right", "gate={max_top1_drop: null, max_drop: 0.9}", "finetune.distill=0.5"
    )
    ended = cli("run", *settings, "--trust-code", "-o", "here")
    assert ended.code == 0, ended.err
    assert "margin compares classes of images; with finetune.loss: two_user:loss states are compared" in " ".join(
        ended.err.split()
    )
    folder = tmp_path / "here"
    report = read_report(folder / "report.json")
    assert report.metric == MetricInfo(name="two_user:both_right", label="both right", share=False)
    assert report.pruned.accuracy is None
    assert report.pruned.score
    assert report.dense.score
    assert report.dense.score.value > 0.5  # both heads have learned
    assert report.pruned.score_drop
    assert report.pruned.score_drop.resamples == 200
    assert list(faults(report)) == []
    assert [one.name for one in onnx.load(folder / "pruned.onnx").graph.output] == ["digit", "odd"]
    assert report.proof.pruned_vs_onnx
    assert report.proof.pruned_vs_onnx.of.startswith("2 outputs, ")
    network = load(folder, trust_code=True)
    assert network(torch.zeros(2, 1, 16, 16)).odd.shape == (2, 1)
    (check,) = [one for one in report.verdict.checks if one.name == "drop"] if report.verdict else []
    assert (check.label, check.share, check.interval is not None) == ("both right drop", False, True)
    for text in (ended.out, (folder / "report.html").read_text(), (folder / "model_card.md").read_text()):
        assert "both right" in text.lower()
        assert "top-1" not in text.lower()
    assert "Output `odd`: float32 [batch, 1]" in (folder / "model_card.md").read_text()
    evaluated = cli("evaluate", folder / "pruned.onnx", *settings, "--trust-code", "--json")
    assert (
        json.loads(evaluated.out)["score"]["value"] == report.pruned.onnx_score.value if report.pruned.onnx_score else 0
    )


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("two_user:raising", "metric: two_user:raising failed in your code: KeyError: 'tens'"),
        ("two_user:vector", "metric: two_user:vector must return one number; it returned Tensor"),
        ("two_user:nothing", "metric: two_user has no 'nothing'"),
        ("mean_iou", "the network gives 2 outputs (digit, odd); choose one with model.output=digit"),
    ],
)
def test_metrics_that_cannot_be_computed_are_named_before_any_training(
    cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]], tmp_path: Path, metric: str, says: str
) -> None:
    ended = cli("run", *quick(*TWO_HEADS, f"metric={metric}"), "--trust-code", "-o", "here")
    assert ended.code == 2, ended.err
    assert says in ended.err.replace("\n", " ")
    assert not (tmp_path / "here").exists()


@pytest.fixture(scope="module")
def by_f1(tmp_path_factory: pytest.TempPathFactory, dense: Path, cli: Callable[..., Any], quick: Any) -> Path:
    """An exported run of the digits recipe whose metric is macro F1."""
    folder = tmp_path_factory.mktemp("runs") / "f1"
    settings = quick(
        "metric=macro_f1",
        "gate={max_top1_drop: null, max_drop: 0.5, min_speedup: null, disturbed: allow}",
        "data.limit=600",
    )
    ended = cli("prune", dense, *settings, "-o", folder)
    assert ended.code == 0, ended.err
    assert cli("export", folder, "--onnx", "--int8").code == 0
    return folder


def test_the_words_of_a_run_are_those_of_its_metric(cli: Callable[..., Any], by_f1: Path) -> None:
    shown = cli("report", by_f1).out
    assert "macro F1 of the files" in shown
    assert "Macro F1 through the stages" in shown
    gated = cli("gate", by_f1)
    assert gated.code == 0, gated.err
    assert "macro F1 drop" in gated.out
    assert "macro F1 drop: 95 % interval" in gated.out
    assert "Macro F1 on the test images" in (by_f1 / "report.html").read_text()
    assert "macro F1" in cli("runs", by_f1.parent).out
    report = read_report(by_f1 / "report.json")
    assert report.pruned.accuracy  # which images of one class have in addition
    assert report.variants["int8"].measured.score_drop
    metadata = {one.key: one.value for one in onnx.load(by_f1 / "pruned.onnx").metadata_props}
    assert float(metadata["edcompress.score"]) == report.pruned.score.value if report.pruned.score else 0


def test_the_bound_and_the_level_of_the_gate_count(by_f1: Path) -> None:
    report = read_report(by_f1 / "report.json")
    drop = report.pruned.score_drop
    assert drop
    estimate, wide = (
        judge(report, Gate(max_top1_drop=None, max_drop=drop.value, min_speedup=None, level=0.99, **more))
        for more in ({}, {"confidence": "bound"})
    )
    assert estimate.checks[0].passed
    assert not wide.checks[0].passed
    interval = drop.interval(0.99)
    assert wide.checks[0].interval == interval


def test_the_drop_limits_top1_where_that_is_the_metric(finished_once: Path) -> None:
    report = read_report(finished_once / "report.json")
    verdict = judge(report, Gate(max_drop=0.03, max_top1_drop=0.03, min_speedup=None))
    drop, top1 = (next(one for one in verdict.checks if one.name == name) for name in ("drop", "top1_drop"))
    assert (drop.value, drop.interval, drop.pairs) == (top1.value, top1.interval, top1.pairs)
    assert drop.label == "top-1 drop"


def test_a_score_that_is_not_that_of_its_drop_is_forged(by_f1: Path) -> None:
    report = read_report(by_f1 / "report.json")
    assert report.pruned.onnx_score
    better = report.pruned.onnx_score.model_copy(update={"value": 0.999})
    forged = report.model_copy(update={"pruned": report.pruned.model_copy(update={"onnx_score": better})})
    assert any("score_drop.value is" in text for text in faults(forged))


def written(**sections: Any) -> Recipe:
    data = {"dataset": "digits", "image_size": 16}
    return Recipe.model_validate({"model": {"arch": "resnet8", "num_classes": 10}, "data": data, **sections})


def test_another_metric_moves_the_default_limit_of_the_gate() -> None:
    recipe = written(metric="auc")
    assert recipe.gate.limits["max_drop"] == 0.01
    assert "max_top1_drop" not in recipe.gate.limits
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    given = written(metric="auc", gate={"max_top1_drop": 0.2})
    assert (given.gate.max_top1_drop, given.gate.max_drop) == (0.2, None)
    assert written(metric="auc", gate={"max_drop": None}).gate.limits.keys().isdisjoint({"max_drop", "max_top1_drop"})
    assert written().gate.max_top1_drop == 0.01


def test_a_target_of_top1_needs_that_metric() -> None:
    with pytest.raises(
        ValueError, match=r"target.max_top1_drop limits top-1, and the metric is auc; set target.max_drop"
    ):
        written(metric="auc", target={"max_top1_drop": 0.1})


@pytest.mark.integration
def test_the_smallest_network_within_a_drop_of_the_metric(
    cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]], dense: Path, tmp_path: Path
) -> None:
    more = (
        "metric=macro_f1",
        "target={macs: null, max_drop: 0.9, trials: 1}",
        "data.limit=600",
        "data.search_from=test",
    )
    ended = cli("prune", dense, *quick(*more), "-o", tmp_path / "small")
    assert ended.code == 0, ended.err
    report = read_report(tmp_path / "small" / "report.json")
    assert report.target.kind == "max_drop"
    assert report.points[0].score is not None
    assert "macro F1 drop on the held-out images" in ended.out
    assert "points of macro F1" in (tmp_path / "small" / "report.html").read_text()


def test_training_and_evaluation_return_scores(dense: Path) -> None:
    recipe = read_recipe("digits", ("metric=auc",))
    found = edcompress.evaluate(dense, recipe, RunOptions("cpu"))
    assert found.headline.value > 0.8  # type: ignore[union-attr]


def test_losses_and_metrics_in_memory_need_no_trust(dense: Path, tmp_path: Path) -> None:
    called = []

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        called.append("loss")
        return torch.nn.functional.cross_entropy(outputs, labels)

    def right(outputs: torch.Tensor, labels: torch.Tensor) -> float:
        called.append("metric")
        return (outputs.argmax(1) == labels).double().mean().item()

    names = (
        "metric=memory:right",
        "finetune.loss=memory:loss",
        "search.epochs=1",
        "finetune.epochs=1",
        "data.limit=300",
    )
    options = RunOptions("cpu", objects={"memory:right": right, "memory:loss": loss})
    report = edcompress.prune(dense, read_recipe("digits", names), tmp_path / "run", options=options)
    assert set(called) == {"loss", "metric"}
    assert report.pruned.score
    assert report.pruned.accuracy
    assert report.pruned.score.value == report.pruned.accuracy.top1.fraction
