"""Networks with several outputs, auxiliary heads and own losses, from the command line to the ONNX file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from edcompress.core.recipe.loading import read_recipe
from edcompress.deploy.runtime.parity import run_outputs
from edcompress.workflows.load import load

pytestmark = pytest.mark.usefixtures("user_code")

CODE = """
import math
from collections import namedtuple
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

Heads = namedtuple("Heads", ["logits", "aux"])

@dataclass
class Answer:
    logits: torch.Tensor
    depth: torch.Tensor

class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.head, self.other = nn.Linear(16, 10), nn.Linear(16, 10)
        self.helper = nn.Conv2d(16, 10, 1)

    def forward(self, images):
        features = self.body(images)
        pooled = features.mean((2, 3))
        logits = self.head(pooled)
        if self.form == "aux":
            return Heads(logits, self.helper(features).mean((2, 3))) if self.training else logits
        if self.form == "dict":
            return {"out": logits, "other": self.other(pooled)}
        if self.form == "plain":
            return logits
        return Answer(logits, self.other(pooled))

def aux(): return Net("aux")
def both(): return Net("dict")
def plain(): return Net("plain")
def answer(): return Net("dataclass")

def loss(outputs, labels):
    return F.cross_entropy(outputs.logits, labels) + 0.1 * outputs.depth.square().mean()
def vector(outputs, labels): return F.cross_entropy(outputs, labels, reduction="none")
def nan(outputs, labels): return outputs.sum() * math.nan
def raising(outputs, labels): raise KeyError("weights")
"""


Run = Callable[..., Any]


@pytest.fixture
def run(cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]]) -> Run:
    """`edcompress run` of a network of heads_user, with further overrides."""

    def call(factory: str, *more: str) -> Any:
        network = ("model.arch=null", "model.stem=imagenet", f"model.factory=heads_user:{factory}")
        return cli("run", *quick(*network, "data.limit=300", *more), "--trust-code", "-o", "runs/here")

    return call


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heads_user.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)


@pytest.mark.integration
def test_auxiliary_heads_train_with_the_network_and_lose_channels_with_it(run: Run, tmp_path: Path) -> None:
    ended = run("aux")
    assert ended.code in (0, 1), ended.err
    network = load(tmp_path / "runs" / "here", trust_code=True)
    assert network.helper.in_channels == network.head.in_features < 16
    heads = network.train()(torch.zeros(2, 1, 16, 16))
    assert heads.logits.shape == heads.aux.shape == (2, 10)


def test_the_chosen_output_is_trained_measured_and_exported(run: Run, tmp_path: Path) -> None:
    ended = run("both", "model.output=out", "finetune.distill=0.5")
    assert ended.code in (0, 1), ended.err
    folder = tmp_path / "runs" / "here"
    assert [value.name for value in onnx.load(folder / "pruned.onnx").graph.output] == ["logits"]
    images = torch.rand(8, 1, 16, 16)
    network = load(folder, trust_code=True)
    found = run_outputs(folder / "pruned.onnx", images)["logits"]
    torch.testing.assert_close(found, network(images)["out"], rtol=1e-4, atol=1e-4)
    report = json.loads((folder / "report.json").read_text())
    assert report["proof"]["pruned_vs_onnx"]["agreeing"]["correct"] > 250


def test_several_outputs_without_a_choice_need_an_own_loss(run: Run) -> None:
    ended = run("both")
    assert (ended.code, "2 outputs (out, other); choose one with model.output=out" in ended.err) == (2, True)
    ended = run("both", "model.output=inn")
    assert (ended.code, "model.output: the network gives no 'inn', but out, other" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            "train.loss=heads_user:vector",
            "train.loss: heads_user:vector must return a scalar tensor, the loss of the batch",
        ),
        ("train.loss=heads_user:nan", "train.loss: heads_user:nan is nan on the first images, before any training"),
        ("train.loss=heads_user:raising", "train.loss: heads_user:raising failed in your code: KeyError: 'weights'"),
        ("finetune.loss=heads_user:vector", "finetune.loss: heads_user:vector must return a scalar tensor"),
        ("finetune.loss=heads_user:none", "finetune.loss: heads_user has no 'none'; did you mean"),
        ("finetune.loss=bce", "finetune.loss: bce needs float labels"),
        (
            "finetune.loss=focal_loss",
            "'focal' or 'pixel_cross_entropy'; did you mean 'focal'?",
        ),
        ("finetune.loss_options={gamma: 1}", "finetune.loss_options.gamma: unknown key"),
    ],
)
def test_losses_that_cannot_be_used_are_named(run: Run, key: str, says: str) -> None:
    ended = run("plain", key)
    assert ended.code == 2, ended.err
    assert says in ended.err.replace("\n", " "), ended.err


def test_own_losses_need_trust(cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]]) -> None:
    ended = cli("train", *quick("train.loss=heads_user:vector"), "-o", "dense.safetensors")
    assert (ended.code, "train.loss: heads_user:vector runs your own code; add --trust-code" in ended.err) == (2, True)


def test_check_tries_an_own_loss_with_trust_alone(
    cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]]
) -> None:
    words = quick("finetune.loss=heads_user:vector")
    recipe, overrides = words[1], words[2:]
    untried = cli("check", recipe, *overrides)
    assert untried.code == 0, untried.err
    assert "finetune.loss heads_user:vector was not tried: it needs --trust-code" in " ".join(untried.out.split())
    tried = cli("check", recipe, *overrides, "--trust-code")
    assert tried.code == 2
    assert "must return a scalar tensor" in tried.out + tried.err
    assert read_recipe("digits", ("metric=nowhere:metric",)).trust_flags == ["--trust-code"]
